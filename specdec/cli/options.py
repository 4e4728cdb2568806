"""Options that several commands share, each declared once, and the values that are made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from specdec.cli.completion import draft_lengths, parameter_names, rule_names, strategy_names
from specdec.cli.parsing import parameters
from specdec.errors import InputError
from specdec.inputs import number_or_text
from specdec.pictures import PICTURES, Theme

if TYPE_CHECKING:
    from specdec.pair import Pair
    from specdec.strategy import DecodingStrategy


GPUS = ("/dev/nvidiactl", "/dev/kfd")
"""Where there is one of these files, torch may find a GPU."""

model_option = partial(typer.Option, rich_help_panel="Models")
loading_option = partial(typer.Option, rich_help_panel="Loading of checkpoints")
sampling_option = partial(typer.Option, rich_help_panel="Sampling")

VerificationOption = Annotated[
    str,
    sampling_option(
        metavar="RULE",
        autocompletion=rule_names,
        help="What accepts drafted tokens: token, match or block; to measure speed only, synthetic:0.8 or synthetic:PROFILE.",
    ),
]
SEED = "The same seed gives the same tokens, where no measured time decides the length of drafts"
Seed = Annotated[int, sampling_option(help=f"{SEED}.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON to FILE, or - for standard output.")
]
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

    files: Annotated[
        list[str] | None, typer.Option("--output", metavar="FILE", help="Draw a picture: .svg, .png or .html; may be repeated.")
    ] = None
    theme: Annotated[Theme, typer.Option("--theme", help="Background of the picture.")] = "light"

    def paths(self, *others: str) -> list[Path]:
        """The files to draw, checked before any work is done; `others` are further suffixes that the command can write.

        Raises `InputError` for an unknown suffix or a missing folder.
        """
        if self.theme != "light" and not self.files:
            raise InputError(f"--theme {self.theme} is for pictures: give --output FILE too")
        found: list[Path] = []
        known = (*PICTURES, *others)
        for name in self.files or ():
            path = Path(name)
            if path.suffix not in known:
                raise InputError(f"--output {name} has no known format: end it in {', '.join(known)}")
            if not path.parent.is_dir():
                raise InputError(f"--output {name} lies in a folder that does not exist: make it first")
            found.append(path)
        return found


@dataclass(frozen=True)
class ModelOptions:
    """The pair, and the devices on which it works."""

    target: Annotated[
        str | None,
        model_option(
            help="Target model: a directory, a hub name, or shape:NAME for random weights. The bundled pair unless given."
        ),
    ] = None
    draft: Annotated[
        str | None,
        model_option(help="Draft model, with the target's own tokenizer or another; layers:8 for the target's first 8 layers."),
    ] = None
    small_draft: Annotated[
        str | None, model_option(help="A third model, which drafts for the draft; layers:2 for the draft's own first 2 layers.")
    ] = None
    small_draft_length: Annotated[
        int | None, model_option(metavar="N", help="Tokens that it guesses for each forward of the draft.")
    ] = None
    vocabularies: Annotated[
        Literal["auto", "same", "common", "text"],
        model_option(help="How the draft's tokens become the target's: by ids, common tokens or text."),
    ] = "auto"
    device: Annotated[str | None, model_option(help="Device of the target, such as cpu, cuda or cuda:1.")] = None
    draft_device: Annotated[str | None, model_option(help="Device of the draft; the target's unless given.")] = None
    dtype: Annotated[
        Literal["float64", "float32", "bfloat16", "float16"] | None,
        model_option(help="Number format; the checkpoint's, where the device has it."),
    ] = None
    lane: Annotated[
        Literal["auto", "inline", "thread", "process"],
        model_option(help="Where the draft works: a process, a thread, or in turn."),
    ] = "auto"
    revision: Annotated[str | None, loading_option(help="Branch, tag or commit of the target on the hub.")] = None
    draft_revision: Annotated[str | None, loading_option(help="Branch, tag or commit of the draft on the hub.")] = None
    gguf_file: Annotated[str | None, loading_option(metavar="NAME", help="GGUF file among those of the target.")] = None
    draft_gguf_file: Annotated[str | None, loading_option(metavar="NAME", help="GGUF file among those of the draft.")] = None
    quantization_config: Annotated[
        str | None,
        loading_option(
            metavar="JSON", help='Quantise the target, such as {"quant_method": "bitsandbytes", "load_in_4bit": true}.'
        ),
    ] = None
    draft_quantization_config: Annotated[str | None, loading_option(metavar="JSON", help="The same for the draft.")] = None
    device_map: Annotated[
        str | None,
        loading_option(
            metavar="MAP", help="Spread the target over devices: auto, balanced, sequential, or JSON of modules and devices."
        ),
    ] = None
    attn_implementation: Annotated[
        str | None, loading_option(metavar="NAME", help="Attention of both models, such as eager or sdpa.")
    ] = None
    trust_remote_code: Annotated[
        bool, loading_option("--trust-remote-code", help="Run code that comes with the checkpoints.")
    ] = False
    tensor_parallel: Annotated[
        bool, loading_option("--tensor-parallel", help="Split the target over all processes that torchrun started.")
    ] = False

    @property
    def drafts(self) -> bool:
        """Whether there is a draft model."""
        return self.target is None or self.draft is not None

    @property
    def draft_in_a_process(self) -> bool:
        """Whether a draft will work in a process, as far as that is sure before torch is imported."""
        from specdec.machine import available_cores

        where = self.draft_device or self.device
        on_cpu = where == "cpu" or (where is None and not any(Path(file).exists() for file in GPUS))
        chosen = self.lane == "process" or (self.lane == "auto" and available_cores() > 1)
        return self.drafts and on_cpu and chosen and not self.tensor_parallel

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
        if not self.drafts and self.lane != "auto":
            raise InputError(f"--lane {self.lane} is for a draft, and there is none: give --draft too")
        if self.small_draft is not None and self.draft is None:
            raise InputError(f"--small-draft {self.small_draft} drafts for a draft of your own: give --target and --draft too")
        if self.small_draft_length is not None and self.small_draft is None:
            raise InputError("--small-draft-length is for a third model, and there is none: give --small-draft too")
        if self.draft is None and self.vocabularies != "auto":
            raise InputError(f"--vocabularies {self.vocabularies} is for a draft of your own: give --draft too")
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
        """The pair that the options name, or the bundled one. Takes seconds; a core is left to a draft beside the target."""
        self.check()
        from specdec.pair import Pair
        from specdec.runtime.lane import leave_a_core_to_the_draft

        if self.drafts and self.lane != "inline":
            leave_a_core_to_the_draft()
        where = {"device": self.device, "draft_device": self.draft_device, "dtype": self.dtype}
        if self.target is None:
            return Pair.bundled(**where, lane=self.lane, eager=eager)
        own = {"lane": self.lane, "vocabularies": self.vocabularies}
        return Pair.load(self.target, self.draft, **where, **own, eager=eager, **self._loading())


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
