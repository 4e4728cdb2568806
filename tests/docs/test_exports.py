"""What the doors offer: `__all__` is sorted, holds what `__init__` imports, and all of it is documented."""

import ast
import tomllib
from importlib.metadata import entry_points
from inspect import unwrap
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import sim
import specdec
import specdec.testing
import strategies

ROOT = Path(__file__).resolve().parents[2]
OURS = {"specdec", "strategies", "sim"}


def exported_names(source: str) -> set[str]:
    """Names that an `__init__` re-exports: imported ones and those in its table of later imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases) if module.partition(".")[0] in OURS:
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.Assign(targets=[ast.Name(id="_LATER")], value=ast.Dict(keys=keys)):
                names |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            case _:
                pass
    return names


def undocumented(module: ModuleType, name: str) -> bool:
    thing = getattr(module, name)
    if isinstance(unwrap(thing), type | FunctionType):
        documentation = thing.__doc__ or ""
        return not documentation or documentation.startswith(f"{name}(")  # what dataclass writes by itself
    return not any(f"`{name}`" in page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))


@pytest.mark.parametrize("package", [specdec, specdec.testing, sim, strategies], ids=lambda package: package.__name__)
def test_exports(package: ModuleType) -> None:
    offered = list(package.__all__)
    assert offered == sorted(offered)
    assert set(offered) == exported_names(Path(str(package.__file__)).read_text(encoding="utf-8"))
    assert not [name for name in offered if undocumented(package, name)]


def test_exports_are_seen() -> None:
    assert exported_names("from specdec.pair import Pair\n_LATER = {'decode': 'specdec.decoding'}\nimport torch") == {
        "Pair",
        "decode",
    }


def test_exports_hold_the_built_in_strategies() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]["specdec.strategies"]
    classes = {entry.name: entry.load() for entry in entry_points(group="specdec.strategies") if entry.name in declared}
    assert classes.keys() == declared.keys()
    assert {cls.__name__ for cls in classes.values()} == set(strategies.__all__)
