"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.errors import InputError
from specdec.pictures import PICTURES

if TYPE_CHECKING:
    from specdec.pair import Pair
    from specdec.strategy import DecodingStrategy


class Lane(StrEnum):
    auto = "auto"
    inline = "inline"
    thread = "thread"
    process = "process"


class Verification(StrEnum):
    token = "token"
    match = "match"
    block = "block"


class DType(StrEnum):
    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Theme(StrEnum):
    light = "light"
    dark = "dark"


_MODELS = "Models"
_SAMPLING = "Sampling"

Target = Annotated[
    str | None,
    typer.Option(
        help="Target model: a directory, a hub name, or shape:NAME for random weights. The bundled pair unless given.",
        rich_help_panel=_MODELS,
    ),
]
Draft = Annotated[str | None, typer.Option(help="Draft model, with the target's own tokenizer.", rich_help_panel=_MODELS)]
Device = Annotated[str | None, typer.Option(help="Device of the target, such as cpu, cuda or cuda:1.", rich_help_panel=_MODELS)]
DraftDevice = Annotated[
    str | None, typer.Option(help="Device of the draft; the target's unless given.", rich_help_panel=_MODELS)
]
DTypeOption = Annotated[
    DType | None,
    typer.Option("--dtype", help="Number format; the checkpoint's, where the device has it.", rich_help_panel=_MODELS),
]
LaneOption = Annotated[Lane, typer.Option("--lane", help="Where the draft works beside the target.", rich_help_panel=_MODELS)]
Eager = Annotated[
    bool,
    typer.Option("--eager", help="Run transformers' own forwards, neither fused nor as CUDA graphs.", rich_help_panel=_MODELS),
]
VerificationOption = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="What accepts drafted tokens: token, match or block; to measure speed only, synthetic:0.8 or synthetic:PROFILE.",
        rich_help_panel=_SAMPLING,
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same tokens.", rich_help_panel=_SAMPLING)]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON to FILE, or - for standard output.")
]
Pictures = Annotated[
    list[str] | None, typer.Option("--output", metavar="FILE", help="Draw a picture: .svg, .png or .html; may be repeated.")
]
ThemeOption = Annotated[Theme, typer.Option("--theme", help="Ground of the picture.")]
Parameters = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the strategy; may be repeated.")
]


@dataclass(frozen=True)
class StrategyOptions:
    """Which strategy, and its parameters."""

    strategy: Annotated[str, typer.Option(help="Strategy, as specdec strategies lists them.")] = "pearl"
    draft_length: Annotated[str | None, typer.Option(metavar="N", help="Tokens to draft at once, or auto.")] = None
    settings: Parameters = None

    def create(self) -> DecodingStrategy:
        """The strategy; unknown names and parameters are refused."""
        from specdec.strategy import create

        chosen = parameters(self.settings)
        if self.draft_length is not None:
            if "draft_length" in chosen:
                raise InputError("--draft-length and --set draft_length=... are the same parameter: give one of them")
            chosen["draft_length"] = value(self.draft_length)
        return create(self.strategy, **chosen)


@dataclass(frozen=True)
class PictureOptions:
    """Pictures to draw of the result."""

    files: Pictures = None
    theme: ThemeOption = Theme.light

    def paths(self, *others: str) -> list[Path]:
        """Where to draw, checked before any work is done; `others` are further suffixes that the command can write."""
        if self.theme is not Theme.light and not self.files:
            raise InputError(f"--theme {self.theme.value} is for pictures: give --output FILE too")
        return picture_paths(self.files, *others)


@dataclass(frozen=True)
class ModelOptions:
    """The pair, and where it works. `load` may take seconds."""

    target: Target = None
    draft: Draft = None
    device: Device = None
    draft_device: DraftDevice = None
    dtype: DTypeOption = None
    lane: LaneOption = Lane.auto

    @property
    def shapes(self) -> str:
        """The shapes of random weights among the models, as text."""
        return shapes_in(self.target, self.draft)

    def load(self, *, eager: bool = False) -> Pair:
        """The pair that the options name, or the bundled one, with one core left to the draft."""
        return load_pair(self.target, self.draft, self.device, self.draft_device, self.dtype, self.lane, eager)


def load_pair(
    target: str | None,
    draft: str | None,
    device: str | None,
    draft_device: str | None,
    dtype: DType | None,
    lane: Lane,
    eager: bool = False,
) -> Pair:
    """The pair that the options name, or the bundled one, with one core left to the draft."""
    from specdec.pair import Pair
    from specdec.runtime.lane import leave_a_core_to_the_draft

    leave_a_core_to_the_draft()
    options: dict[str, Any] = {
        "device": device,
        "draft_device": draft_device,
        "dtype": dtype and dtype.value,
        "lane": lane.value,
        "eager": eager,
    }
    if target is not None:
        return Pair.load(target, draft, **options)
    if draft is not None:
        raise InputError(f"--draft {draft} has no target: give --target too, or neither for the bundled pair")
    return Pair.bundled(**options)


def shapes_in(*models: str | None) -> str:
    """The shapes among the models that the options name, as text."""
    from specdec.shapes import is_shape

    return " and ".join(model for model in models if model is not None and is_shape(model))


def parameters(settings: Sequence[str] | None, draft_length: str | None = None) -> dict[str, Any]:
    """Parameters of a strategy from `NAME=VALUE` texts and a draft length."""
    chosen: dict[str, Any] = {} if draft_length is None else {"draft_length": value(draft_length)}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set {setting!r} is no parameter: write NAME=VALUE")
        chosen[name] = value(text)
    return chosen


def value(text: str) -> int | float | str:
    """An integer or a number where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def picture_paths(paths: list[str] | None, *others: str) -> list[Path]:
    """Output files whose suffix and folder are good, before any work is done."""
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
