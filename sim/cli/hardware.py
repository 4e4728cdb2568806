"""Options of how long forwards take: steps that are given, or computed for models on GPUs and scaled to measured steps.

An option that would be ignored is refused by name. To know what was given, such options default to `None`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli.parsing import refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from sim.setup.latency import Latency
    from sim.setup.model_size import ModelSize

CONTEXT = 256
MOST_GPUS = 1024
_PROVIDER = "aiconfigurator"
system_option = partial(typer.Option, rich_help_panel="Models and devices")


@dataclass(frozen=True)
class HardwareOptions:
    """The times of forwards: steps, or models on GPUs."""

    draft_step: Annotated[str | None, system_option(metavar="TIME", help="One draft step, such as 1ms or 300us.")] = None
    target_step: Annotated[str | None, system_option(metavar="TIME", help="One target forward of width 1.")] = None
    target_window: Annotated[
        list[str] | None, system_option(metavar="WIDTH=TIME", help="A wider target forward, such as 4=5.5ms; may be repeated.")
    ] = None
    gpu: Annotated[
        str | None, system_option("--gpu", metavar="NAME", help="Estimate steps by the roofline of a GPU, such as H200.")
    ] = None
    latency: Annotated[
        str | None,
        system_option(
            "--latency", metavar="SOURCE", help="Estimate steps by kernels that others measured: aiconfigurator:h100_sxm."
        ),
    ] = None
    target_config: Annotated[
        str | None,
        system_option(metavar="MODEL", help="With --gpu or --latency: the target, as a well-known name or its config.json."),
    ] = None
    draft_config: Annotated[str | None, system_option(metavar="MODEL", help="The draft in the same way.")] = None
    target_gpus: Annotated[
        int | None,
        system_option(
            min=1, max=MOST_GPUS, help="GPUs that the target is spread over; 1 unless given. A plan tries 1, 2, 4 and 8."
        ),
    ] = None
    draft_gpus: Annotated[
        int | None, system_option(min=1, max=MOST_GPUS, help="The same of the draft; on a shared device as many as the target.")
    ] = None
    anchor: Annotated[
        list[str] | None,
        system_option(
            "--anchor",
            metavar="STEP",
            help="Scale estimates to a measured step, such as batch=1:33.9ms or draft,batch=1:2.3ms; may be repeated.",
        ),
    ] = None

    @property
    def computed(self) -> bool:
        """Whether times are computed for models on GPUs."""
        return self.gpu is not None or self.latency is not None

    def given(self) -> dict[str, Any]:
        """What was given of these options, by name."""
        return {**self._steps, "--gpu": self.gpu, "--latency": self.latency, **self._of_estimates}

    @property
    def _steps(self) -> dict[str, Any]:
        return {
            "--draft-step": self.draft_step,
            "--target-step": self.target_step,
            "--target-window": self.target_window,
        }

    @property
    def _of_estimates(self) -> dict[str, Any]:
        return {
            "--target-config": self.target_config,
            "--draft-config": self.draft_config,
            "--target-gpus": self.target_gpus,
            "--draft-gpus": self.draft_gpus,
            "--anchor": self.anchor,
        }

    def latency_of_models(self, *, shared: bool = False) -> Latency:
        """The times of forwards. `shared` says that both models lie on the same GPUs. Models that do not fit are refused."""
        if not self.computed:
            refuse(self._of_estimates, "has no effect without --gpu: give the name of a GPU, or leave it out")
            return self._constant()
        source = "--gpu" if self.gpu is not None else "--latency"
        refuse(self._steps, f"has no effect with {source} {self.gpu or self.latency}: give one of the two")
        if self.gpu is not None:
            refuse({"--latency": self.latency}, f"has no effect with --gpu {self.gpu}: give one of the two")
        self.kv_tokens_beside(shared=shared)
        estimate = self._estimate(shared)
        if not self.anchor:
            return estimate
        from sim.setup.anchored import Anchor, Anchored

        return Anchored(estimate, [Anchor.parse(text) for text in self.anchor])

    def kv_tokens_beside(self, *, shared: bool, drafts: bool = True) -> int | None:
        """Tokens that the KV cache holds beside the models on their GPUs; `None` for no GPU, or one of unknown memory."""
        if not self.computed or self._unknown_memory:
            return None
        from sim.setup.memory import kv_tokens

        (target, draft), gpus, name = self._models, self._gpus(shared), self.gpu or self._system
        if not drafts:
            return kv_tokens(name, target, gpus=gpus[0])
        if shared:
            return kv_tokens(name, target, draft, gpus=gpus[0])
        return min(kv_tokens(name, target, gpus=gpus[0]), kv_tokens(name, draft, gpus=gpus[1]))

    @property
    def draft_kv_tokens(self) -> int | None:
        """The same of the draft's cache on GPUs of its own."""
        if not self.computed or self._unknown_memory:
            return None
        from sim.setup.memory import kv_tokens

        return kv_tokens(self.gpu or self._system, self._models[1], gpus=self._gpus(False)[1])

    def remark(self, console: Console) -> None:
        """Say how far estimated times can be trusted; nothing where none is estimated."""
        if self.anchor:
            console.print(f"Step times are fitted: estimates, scaled to {len(self.anchor)} measured by --anchor.")
        elif self.computed:
            console.print(
                "Step times are from a table of the hardware: up to 46 % too short against published ones. "
                "Measure a step, and give --anchor batch=1:TIME."
            )
        if self.computed and self._unknown_memory:
            console.print(f"The memory of {self._system} is unknown: models are taken to fit, and the cache to have no limit.")

    @property
    def _unknown_memory(self) -> bool:
        """Whether others measured kernels of a GPU whose data sheet is not here."""
        from sim.setup.gpus import gpu_name

        if self.gpu is not None:
            return False
        system = self._system
        try:
            gpu_name(system)
        except InputError:
            return True
        return False

    @cached_property
    def _models(self) -> tuple[ModelSize, ModelSize]:
        from sim.setup.model_size import read_model

        target, draft = self._names
        return read_model(target), read_model(draft)

    @property
    def _names(self) -> tuple[str, str]:
        if self.target_config is None or self.draft_config is None:
            option = "--gpu" if self.gpu is not None else "--latency"
            raise InputError(f"{option} needs both models: give --target-config and --draft-config")
        return self.target_config, self.draft_config

    def _gpus(self, shared: bool) -> tuple[int, int]:
        target = 1 if self.target_gpus is None else self.target_gpus
        if not shared:
            return target, 1 if self.draft_gpus is None else self.draft_gpus
        if self.draft_gpus not in (None, target):
            raise InputError(f"--draft-gpus {self.draft_gpus} is not possible on the target's {target}: leave it out")
        return target, target

    @property
    def _system(self) -> str:
        source, _, system = (self.latency or "").partition(":")
        if source != _PROVIDER or not system:
            raise InputError(f"--latency {self.latency} is not known: write {_PROVIDER}:h100_sxm, or give --gpu")
        return system

    def _estimate(self, shared: bool) -> Latency:
        if self.gpu is not None:
            from sim.setup.roofline import Roofline

            return Roofline(self.gpu, *self._models, *self._gpus(shared))
        from sim.setup.aiconfigurator import Aiconfigurator

        return Aiconfigurator(self._system, *self._names, *self._gpus(shared))

    def _constant(self) -> Latency:
        from sim.setup.latency import Constant, parse_seconds

        if self.draft_step is None or self.target_step is None:
            raise InputError("no latency is given: give --draft-step and --target-step, or --profile, or --gpu")
        windows: dict[int, float] = {}
        for window in self.target_window or ():
            width, equals, seconds = window.partition("=")
            if not (equals and width.strip().isdecimal()):
                raise InputError(f"--target-window {window!r} is not understood: write WIDTH=TIME, such as 4=5.5ms")
            windows[int(width)] = parse_seconds(seconds, f"--target-window {width}")
        steps = (parse_seconds(self.draft_step, "--draft-step"), parse_seconds(self.target_step, "--target-step"))
        return Constant(*steps, windows)
