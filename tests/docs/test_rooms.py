"""Who may import whom: arrows between the three packages, rooms inside `specdec` and `sim`, and no circle of files."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# --- arrows: strategies -> specdec <- sim, and no other

MAY_IMPORT = {"specdec": set[str](), "strategies": {"specdec"}, "sim": {"specdec"}}
MOST_LINES = 400
OUTSIDE = {"tests", "benchmarks", "examples"}


def forbidden_imports(package: str, source: str) -> list[str]:
    """Modules of other packages that `source`, a file of `package`, imports or names as text, anywhere in it."""
    forbidden = (MAY_IMPORT.keys() | OUTSIDE) - MAY_IMPORT[package] - {package}
    return [name for name in (*imported(source), *named(source)) if name.partition(".")[0] in forbidden]


def imported(source: str, module: str = "") -> Iterator[str]:
    """Dotted names that `source`, the text of `module`, imports, at its head or later; `from a import b` imports `a.b`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(names=names, level=level):
                above = module.split(".")[: module.count(".") + 1 - level] if level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
                yield name
            case _:
                pass


def named(source: str) -> Iterator[str]:
    """Dotted names that `source` holds as text: modules in a table that is imported from later, among others."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if re.fullmatch(r"\w+(\.\w+)+", text):
                yield text
            case _:
                pass


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_file_is_too_long_to_read(package: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files_of(package)}
    assert not [str(path) for path, lines in lengths.items() if lines > MOST_LINES]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows(package: str) -> None:
    assert files_of(package)
    found = {
        str(path.relative_to(ROOT)): modules
        for path in files_of(package)
        if (modules := forbidden_imports(package, path.read_text(encoding="utf-8")))
    }
    assert not found, f"{package} may import of ours only {sorted(MAY_IMPORT[package]) or 'itself'}"


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("specdec", "import sim"),
        ("specdec", "from strategies.pearl import Pearl"),
        ("specdec", "def later():\n    import strategies"),
        ("specdec", "import_module('sim')"),
        ("specdec", "LATER = {'Pearl': 'strategies.pearl'}"),
        ("specdec", "import tests.test_law"),
        ("sim", "import specdec, strategies"),
        ("sim", "def later():\n    from strategies import Pearl"),
        ("strategies", "from sim.stream.chain import compiled"),
    ],
)
def test_arrows_against_the_direction_are_seen(package: str, source: str) -> None:
    assert forbidden_imports(package, source)


def test_arrows_in_the_direction_are_allowed() -> None:
    assert not forbidden_imports("sim", "import specdec\nfrom sim import metrics\nfrom . import paths\nimport simpy")
    assert not forbidden_imports("strategies", "from specdec import State")


# --- rooms: a room is some files of a package, or a folder; the door is the package's own `__init__`, and nobody in the package
# --- imports through it

ROOMS: dict[str, dict[str, str]] = {
    "specdec": {
        "base": "errors tokens inputs importing clashes plugins statistics machine effects verification typical state lengths "
        "handover strategy installed ending report acceptance profile suffixes",
        "tools": "sampling processors stopping synthetic shapes pictures prompts",
        "law": "law",
        "runtime": "runtime",
        "pair": "own_layers source diagnosis correction loading vocabularies drafters pair settings summary",
        "decoding": "encoded chat text output batch decoding generated",
        "huggingface": "huggingface",
        "measure": "measure",
        "bench": "bench",
        "testing": "testing",
        "cli": "cli __main__",
    },
    "sim": {name: name for name in ("setup", "engines", "stream", "traffic", "study", "planning", "pictures", "checks", "cli")},
}
"""The modules and folders of each room."""

SEES: dict[str, dict[str, str]] = {
    "specdec": {
        "door": "base tools law pair decoding",
        "base": "",
        "tools": "base",
        "law": "base",
        "runtime": "base tools",
        "pair": "base tools runtime",
        "decoding": "base tools runtime pair",
        "huggingface": "base tools runtime pair decoding",
        "measure": "base tools law runtime pair",
        "bench": "base tools runtime pair decoding measure",
        "testing": "base tools law runtime pair decoding",
        "cli": "base tools law runtime pair decoding measure bench testing",
    },
    "sim": {
        "door": "setup engines stream traffic study planning pictures",
        "setup": "",
        "engines": "setup",
        "stream": "setup",
        "traffic": "setup stream",
        "study": "setup engines stream traffic",
        "planning": "setup engines stream traffic study",
        "pictures": "setup stream traffic study planning",
        "checks": "setup stream",
        "cli": "setup engines stream traffic study planning pictures",
    },
}
"""The rooms of the same package that each room may import."""

LAZY_DOOR = ("specdec.strategy", "specdec.huggingface")
"""The one exception: a strategy is a `custom_generate` of transformers, and imports what that needs when it is called."""

Sources = Mapping[str, str]
"""The text of each module, by its dotted name."""


def sources_of(*packages: str) -> dict[str, str]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text(encoding="utf-8")
        for package in packages
        for path in files_of(package)
    }


def edges_of(sources: Sources) -> set[tuple[str, str]]:
    """Who imports whom, by files; what is imported later, or for its types only, counts like everything else."""
    folders = {module.rpartition(".")[0] for module in sources}
    return {
        (module, to)
        for module, text in sources.items()
        for to in _modules(text, f"{module}.__init__" if module in folders else module, sources)
        if to != module
    }


def _modules(text: str, module: str, known: Sources) -> set[str]:
    """The known modules that are imported, or that define what is imported, or that are named."""
    found = {name if name in known else name.rpartition(".")[0] for name in imported(text, module)}
    return found.union(named(text)).intersection(known)


def room_of(module: str) -> str:
    """The room of a module; a `KeyError` for a module that has none."""
    package, *rest = module.split(".")
    if not rest:
        return "door"
    return {part: room for room, parts in ROOMS[package].items() for part in parts.split()}[rest[0]]


def through_walls(sources: Sources) -> list[str]:
    """Imports of the same package that the table does not allow."""
    return sorted(
        f"{module} ({room_of(module)}) imports {to} ({room_of(to)})"
        for module, to in edges_of(sources)
        if (package := module.partition(".")[0]) == to.partition(".")[0]
        and (module, to) != LAZY_DOOR
        and room_of(to) not in {*SEES[package][room_of(module)].split(), room_of(module)}
    )


def circle(edges: set[tuple[str, str]]) -> list[str]:
    """Modules of one or more circles, with what lies between them; empty if there is none."""
    while True:
        importing, imported = {a for a, _ in edges}, {b for _, b in edges}
        left = {(a, b) for a, b in edges if a in imported and b in importing}
        if left == edges:
            return sorted(importing)
        edges = left


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_has_a_room_and_every_room_its_modules(package: str) -> None:
    modules = [module for module in sources_of(package) if module != package]
    assert all(room_of(module) in SEES[package] for module in modules)
    assert {module.split(".")[1] for module in modules} == {part for parts in ROOMS[package].values() for part in parts.split()}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_lie_in_an_order(package: str) -> None:
    assert not circle({(room, seen) for room, rooms in SEES[package].items() for seen in rooms.split()})


def test_rooms() -> None:
    assert not through_walls(sources_of("specdec", "sim"))


def test_rooms_have_one_exception() -> None:
    edges = edges_of(sources_of("specdec", "sim", "strategies"))
    assert circle(edges)
    assert not circle(edges - {LAZY_DOOR})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("specdec.effects", "from specdec.runtime.engine import Engine"),
        ("specdec.effects", "def later():\n    from specdec.runtime import engine"),
        ("specdec.effects", "if TYPE_CHECKING:\n    from specdec.pair import Pair"),
        ("specdec.effects", "ENGINE = 'specdec.runtime.engine'"),
        ("specdec.errors", "from specdec import Pair"),
        ("specdec.strategy", "from specdec.decoding import decode"),
        ("specdec.law.exact", "import specdec.runtime.engine"),
        ("specdec.runtime.engine", "from ..pair import Pair"),
        ("specdec.measure.pair", "from specdec.bench import bench"),
        ("sim.setup.system", "from sim.stream import chain"),
        ("sim.stream.chain", "import sim.study.search"),
        ("sim.study.search", "from sim import tune"),
        ("sim.study.search", "from ..cli.tune import tune"),
    ],
)
def test_an_import_through_a_wall_is_seen(module: str, source: str) -> None:
    assert through_walls({**sources_of("specdec", "sim"), module: source})


def test_a_circle_of_files_in_one_room_is_seen() -> None:
    sources = {"sim.setup.a": "from sim.setup.b import x", "sim.setup.b": "def later():\n    import sim.setup.a"}
    assert circle(edges_of(sources)) == ["sim.setup.a", "sim.setup.b"]


def test_a_module_without_a_room_is_seen() -> None:
    with pytest.raises(KeyError):
        room_of("specdec.helpers")


# --- what is light stays light: without torch a strategy is listed, proved, compiled and simulated

HEAVY = {"torch", "transformers"}


def heavy_imports(source: str) -> list[str]:
    """What `source` imports of torch and transformers, at its head or later."""
    return [name for name in imported(source) if name.partition(".")[0] in HEAVY]


def test_base_law_and_simulator_import_no_torch() -> None:
    light = {
        module: text
        for module, text in sources_of("specdec", "sim", "strategies").items()
        if module.partition(".")[0] != "specdec" or room_of(module) in ("base", "law")
    }
    assert not {module: found for module, text in light.items() if (found := heavy_imports(text))}


@pytest.mark.parametrize("source", ["import torch", "def later():\n    from torch.nn import functional", "import transformers"])
def test_an_import_of_torch_is_seen(source: str) -> None:
    assert heavy_imports(source)
