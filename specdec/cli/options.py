"""Options that several commands share, each declared once, and the values that are made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli.completion import draft_lengths, parameter_names, rule_names, strategy_names
from specdec.errors import InputError
from specdec.inputs import number_or_text
from specdec.lengths import LONGEST_DRAFT
from specdec.pictures import PICTURES

if TYPE_CHECKING:
    from specdec.pair import Pair
    from specdec.strategy import DecodingStrategy


class LaneName(StrEnum):
    auto = "auto"
    inline = "inline"
    thread = "thread"
    process = "process"


class DType(StrEnum):
    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Theme(StrEnum):
    light = "light"
    dark = "dark"


_MODELS = "Models"
_LOADING = "Loading of checkpoints"
DIGITS = 9
"""Of a draft length; Python refuses to read thousands of them."""
SAMPLING = "Sampling"
"""The panel of options that say how tokens are drawn."""

VerificationOption = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        autocompletion=rule_names,
        help="What accepts drafted tokens: token, match or block; to measure speed only, synthetic:0.8 or synthetic:PROFILE.",
        rich_help_panel=SAMPLING,
    ),
]
SEED = "The same seed gives the same tokens, except with elastic"
Seed = Annotated[int, typer.Option(help=f"{SEED}.", rich_help_panel=SAMPLING)]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON to FILE, or - for standard output.")
]
Pictures = Annotated[
    list[str] | None, typer.Option("--output", metavar="FILE", help="Draw a picture: .svg, .png or .html; may be repeated.")
]
ThemeOption = Annotated[Theme, typer.Option("--theme", help="Background of the picture.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the strategy; may be repeated.",
        autocompletion=parameter_names,
    ),
]


@dataclass(frozen=True)
class StrategyOptions:
    """A strategy and its parameters."""

    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Strategy, as specdec strategies lists them; or one of yours: module:Class, ./file.py:Class.",
            autocompletion=strategy_names,
        ),
    ] = "pearl"
    draft_length: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Tokens to draft at once, auto, or a policy: confident:most=8.", autocompletion=draft_lengths
        ),
    ] = None
    settings: Parameters = None

    def create(self) -> DecodingStrategy:
        """The strategy. Raises `InputError` for an unknown name or parameter."""
        from specdec.strategy import create

        chosen = parameters(self.settings)
        if self.draft_length is not None:
            if "draft_length" in chosen:
                raise InputError("--draft-length and --set draft_length=... are the same parameter: give one of them")
            chosen["draft_length"] = number_or_text(self.draft_length)
        return create(self.strategy, **chosen)


@dataclass(frozen=True)
class PictureOptions:
    """Files for pictures of the result, and their theme."""

    files: Pictures = None
    theme: ThemeOption = Theme.light

    def paths(self, *others: str) -> list[Path]:
        """The files to draw, checked before any work is done; `others` are further suffixes that the command can write."""
        if self.theme is not Theme.light and not self.files:
            raise InputError(f"--theme {self.theme.value} is for pictures: give --output FILE too")
        return picture_paths(self.files, *others)


@dataclass(frozen=True)
class ModelOptions:
    """The pair, and the devices on which it works."""

    target: Annotated[
        str | None,
        typer.Option(
            help="Target model: a directory, a hub name, or shape:NAME for random weights. The bundled pair unless given.",
            rich_help_panel=_MODELS,
        ),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            help="Draft model, with the target's own tokenizer; layers:8 for the target's own first 8 layers.",
            rich_help_panel=_MODELS,
        ),
    ] = None
    small_draft: Annotated[
        str | None,
        typer.Option(
            help="A third model that drafts for the draft; layers:2 for its own first 2 layers.", rich_help_panel=_MODELS
        ),
    ] = None
    small_draft_length: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens that it guesses for each forward of the draft.", rich_help_panel=_MODELS),
    ] = None
    device: Annotated[
        str | None, typer.Option(help="Device of the target, such as cpu, cuda or cuda:1.", rich_help_panel=_MODELS)
    ] = None
    draft_device: Annotated[
        str | None, typer.Option(help="Device of the draft; the target's unless given.", rich_help_panel=_MODELS)
    ] = None
    dtype: Annotated[
        DType | None, typer.Option(help="Number format; the checkpoint's, where the device has it.", rich_help_panel=_MODELS)
    ] = None
    lane: Annotated[
        LaneName, typer.Option(help="Where the draft works: a process, a thread, or in turn.", rich_help_panel=_MODELS)
    ] = LaneName.auto
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the target on the hub.", rich_help_panel=_LOADING)
    ] = None
    draft_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the draft on the hub.", rich_help_panel=_LOADING)
    ] = None
    gguf_file: Annotated[
        str | None, typer.Option(metavar="NAME", help="GGUF file among those of the target.", rich_help_panel=_LOADING)
    ] = None
    draft_gguf_file: Annotated[
        str | None, typer.Option(metavar="NAME", help="GGUF file among those of the draft.", rich_help_panel=_LOADING)
    ] = None
    quantization_config: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Quantise the target, such as {"quant_method": "bitsandbytes", "load_in_4bit": true}.',
            rich_help_panel=_LOADING,
        ),
    ] = None
    draft_quantization_config: Annotated[
        str | None, typer.Option(metavar="JSON", help="The same for the draft.", rich_help_panel=_LOADING)
    ] = None
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="MAP",
            help="Spread the target over devices: auto, balanced, sequential, or JSON of modules and devices.",
            rich_help_panel=_LOADING,
        ),
    ] = None
    attn_implementation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Attention of both models, such as eager or sdpa.", rich_help_panel=_LOADING),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with the checkpoints.", rich_help_panel=_LOADING),
    ] = False
    tensor_parallel: Annotated[
        bool,
        typer.Option(
            "--tensor-parallel", help="Split the target over all processes that torchrun started.", rich_help_panel=_LOADING
        ),
    ] = False

    @property
    def drafts(self) -> bool:
        """Whether there is a draft model."""
        return self.target is None or self.draft is not None

    @property
    def shapes(self) -> str:
        """The shapes of random weights among the models, as text; empty where there are none."""
        from specdec.shapes import is_shape

        return " and ".join(model for model in (self.target, self.draft) if model is not None and is_shape(model))

    def check(self) -> None:
        """Refuse options for a model that is not given; `load` does so too."""
        if self.target is None and self.draft is not None:
            raise InputError(f"--draft {self.draft} has no target: give --target too, or neither for the bundled pair")
        if not self.drafts and self.draft_device is not None:
            raise InputError(f"--draft-device {self.draft_device} is for a draft, and there is none: give --draft too")
        if not self.drafts and self.lane is not LaneName.auto:
            raise InputError(f"--lane {self.lane.value} is for a draft, and there is none: give --draft too")
        if self.small_draft is not None and self.draft is None:
            raise InputError(f"--small-draft {self.small_draft} drafts for a draft of your own: give --target and --draft too")
        if self.small_draft_length is not None and self.small_draft is None:
            raise InputError("--small-draft-length is for a third model, and there is none: give --small-draft too")
        for name in self._loading():
            option = "--" + name.replace("_", "-")
            if self.target is None:
                raise InputError(f"{option} is for checkpoints of your own: give --target too")
            if name.startswith("draft_") and self.draft is None:
                raise InputError(f"{option} is for a draft, and there is none: give --draft too")

    def _loading(self) -> dict[str, Any]:
        """The options that `Pair.load` hands on to transformers, as far as they were given."""
        mapped = self.device_map if self.device_map is None or not self.device_map.startswith("{") else None
        found = {
            "revision": self.revision,
            "draft_revision": self.draft_revision,
            "gguf_file": self.gguf_file,
            "draft_gguf_file": self.draft_gguf_file,
            "quantization_config": _mapping("--quantization-config", self.quantization_config),
            "draft_quantization_config": _mapping("--draft-quantization-config", self.draft_quantization_config),
            "device_map": mapped or _mapping("--device-map", self.device_map),
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code or None,
            "tensor_parallel": self.tensor_parallel or None,
            "small_draft": self.small_draft,
            "small_draft_length": self.small_draft_length,
        }
        return {name: value for name, value in found.items() if value is not None}

    def load(self, *, eager: bool = False) -> Pair:
        """The pair that the options name, or the bundled one. Takes seconds; one core is left to the draft."""
        self.check()
        from specdec.pair import Pair
        from specdec.runtime.lane import leave_a_core_to_the_draft

        leave_a_core_to_the_draft()
        where = {"device": self.device, "draft_device": self.draft_device, "dtype": self.dtype and self.dtype.value}
        if self.target is None:
            return Pair.bundled(**where, lane=self.lane.value, eager=eager)
        return Pair.load(self.target, self.draft, **where, lane=self.lane.value, eager=eager, **self._loading())


def _mapping(option: str, text: str | None) -> dict[str, Any] | None:
    """An object of JSON."""
    if text is None:
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{option} {text[:40]!r} is no JSON ({error}): write an object such as {{"name": "value"}}') from error
    if not isinstance(found, dict):
        raise InputError(f'{option} {text[:40]!r} is no object: write JSON such as {{"name": "value"}}')
    return found


def parameters(settings: Sequence[str] | None) -> dict[str, Any]:
    """Parameters of a strategy from `NAME=VALUE` texts."""
    return {name: number_or_text(text) for name, text in map(_named, settings or ())}


def parsed_grid(settings: Sequence[str] | None) -> dict[str, list[int | float | str]]:
    """Values by parameter from `NAME=VALUES` texts: `few=1-3` is 1, 2 and 3; `rule=a,b` is both. A policy is one value."""
    found: dict[str, list[int | float | str]] = {}
    for name, text in (_named(setting) for setting in settings or ()):
        for part in [text] if ":" in text else text.split(","):
            first, dash, last = part.strip().partition("-")
            whole = dash and first.isdecimal() and last.isdecimal() and len(last) < 4
            values = range(int(first), int(last) + 1) if whole else [number_or_text(part.strip())]
            found.setdefault(name, []).extend(values)
        if not found.get(name):
            raise InputError(f"--set {name}={text} holds no value: write NAME=1-3, or NAME=2,4")
    return found


def _named(setting: str) -> tuple[str, str]:
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise InputError(f"--set {setting!r} is no parameter: write NAME=VALUE")
    return name, text


def parsed_lengths(text: str | None) -> list[int]:
    """`"1,2,4-6"` as `[1, 2, 4, 5, 6]`."""
    return parsed_counts("draft length", text, LONGEST_DRAFT)


def parsed_counts(what: str, text: str | None, most: int) -> list[int]:
    """Whole numbers from 1 to `most`, and ranges of them; each once. `what` is what errors call them."""
    counts: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.strip().partition("-")
        possible = first.isdecimal() and (last.isdecimal() or not dash)
        if not possible or max(len(first), len(last)) > DIGITS or not 1 <= int(first) <= int(last or first) <= most:
            raise InputError(f"{what} {part!r} is not possible: give integers from 1 to {most}, such as 1,2,4 or 1-8")
        counts += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(counts))


def several(texts: Sequence[str] | None) -> list[str]:
    """The names in options that may be repeated and may hold lists: `["a,b", "c"]` as `["a", "b", "c"]`."""
    return [part.strip() for text in texts or () for part in text.split(",")]


def picture_paths(paths: list[str] | None, *others: str) -> list[Path]:
    """Output files. Raises `InputError` for an unknown suffix or a missing folder."""
    found: list[Path] = []
    for name in paths or ():
        path = Path(name)
        known = (*PICTURES, *others)
        if path.suffix not in known:
            raise InputError(f"--output {name} has no known format: end it in {', '.join(known)}")
        if not path.parent.is_dir():
            raise InputError(f"--output {name} lies in a folder that does not exist: make it first")
        found.append(path)
    return found
