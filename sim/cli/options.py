"""Options that the simulator's commands share, and the values that they stand for: a system and a model of acceptance.

An option that would be ignored is refused by name. To know what was given, such options default to `None`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.acceptance import ACCEPTANCE_HELP, parsed_acceptance
from sim.cli.numbers import numbers
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from sim.setup.latency import Latency
    from sim.setup.system import Jitter, System
    from specdec.profile import Profile


class Placement(StrEnum):
    two = "two"
    shared = "shared"


CONTEXT = 256
MOST_JITTER = 100.0
MOST_TOKENS = 10_000_000
"""What can be simulated in memory and minutes."""

_SYSTEM = "Models and devices"

Seed = Annotated[
    int, typer.Option(min=0, help="Equal seeds give every strategy equal acceptance draws: the same easy and hard tokens.")
]


@dataclass(frozen=True)
class SystemOptions:
    """How often guesses are accepted, and the times of models and devices."""

    acceptance: Annotated[
        str | None,
        typer.Option(
            "--acceptance",
            metavar="MODEL",
            help=ACCEPTANCE_HELP,
        ),
    ] = None
    draft_step: Annotated[
        str | None, typer.Option(metavar="TIME", help="One draft step, such as 1ms or 300us.", rich_help_panel=_SYSTEM)
    ] = None
    target_step: Annotated[
        str | None, typer.Option(metavar="TIME", help="One target forward of width 1.", rich_help_panel=_SYSTEM)
    ] = None
    target_window: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTH=TIME", help="A wider target forward, such as 4=5.5ms; may be repeated.", rich_help_panel=_SYSTEM
        ),
    ] = None
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="FILE", help="What specdec profile measured, instead of steps.", rich_help_panel=_SYSTEM
        ),
    ] = None
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="NAME", help="Estimate steps by the roofline of a GPU, such as H200.", rich_help_panel=_SYSTEM
        ),
    ] = None
    target_config: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --gpu: config.json of the target.", rich_help_panel=_SYSTEM)
    ] = None
    draft_config: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --gpu: config.json of the draft.", rich_help_panel=_SYSTEM)
    ] = None
    placement: Annotated[
        Placement | None,
        typer.Option(
            "--placement",
            help="Two devices, or one that both models share in turn; two, or as the profile was measured, unless given.",
            rich_help_panel=_SYSTEM,
        ),
    ] = None
    together: Annotated[
        str | None,
        typer.Option(
            "--together",
            metavar="T,D",
            help="Both work at once on one device, target T and draft D times slower (1.2,1.5).",
            rich_help_panel=_SYSTEM,
        ),
    ] = None
    network: Annotated[
        str | None, typer.Option(metavar="TIME", help="One way between two devices; 0 unless given.", rich_help_panel=_SYSTEM)
    ] = None
    overhead: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="What a round takes in addition to its forwards; 0 or the profile's.", rich_help_panel=_SYSTEM
        ),
    ] = None
    jitter: Annotated[
        str | None,
        typer.Option(
            "--jitter",
            metavar="CV",
            help="Coefficient of variation of a forward, or T,D of target and draft; 0 or the profile's.",
            rich_help_panel=_SYSTEM,
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_TOKENS,
            help=f"With --profile or --gpu: tokens before the window; {CONTEXT} unless given.",
            rich_help_panel=_SYSTEM,
        ),
    ] = None

    def system(self) -> System:
        """The devices to simulate."""
        from sim.setup.latency import parse_seconds
        from sim.setup.profiles import measured_system
        from sim.setup.system import System
        from specdec.profile import Slowdown

        self._refuse_ignored()
        context = CONTEXT if self.context is None else self.context
        together = Slowdown(*numbers("--together", self.together, 2)) if self.together is not None else None
        devices: dict[str, Any] = {
            "shared": self.placement is Placement.shared,
            "together": together,
            "network_seconds": parse_seconds(self.network, "--network") if self.network is not None else 0.0,
        }
        if self._measured is None:
            system = System(self._latency(), **devices, context=context)
        else:
            system = measured_system(self._measured, context, f"profile {self.profile}")
            if (self.placement, self.together, self.network) != (None, None, None):
                system = replace(system, **devices)
        if self.overhead is not None:
            overhead = parse_seconds(self.overhead, "--overhead")
            system = replace(system, overhead_seconds=overhead, drafting_overhead_seconds=None)
        return system if self.jitter is None else replace(system, jitter=self._jitter(self.jitter))

    def acceptance_model(self) -> Acceptance:
        """The model of acceptance."""
        return parsed_acceptance(self.acceptance, self._measured, f"profile {self.profile}")

    @cached_property
    def _measured(self) -> Profile | None:
        from specdec.profile import Profile

        return Profile.read(self.profile) if self.profile is not None else None

    def _latency(self) -> Latency:
        from sim.setup.latency import Constant, parse_seconds

        if self.gpu is not None:
            from sim.setup.roofline import Roofline, read_model

            if self.target_config is None or self.draft_config is None:
                raise InputError("--gpu needs both models: give --target-config and --draft-config")
            return Roofline(self.gpu, read_model(self.target_config), read_model(self.draft_config))
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

    def _jitter(self, text: str) -> Jitter:
        from sim.setup.system import Jitter

        cvs = numbers("--jitter", text, 2 if "," in text else 1)
        if max(cvs) > MOST_JITTER:
            raise InputError(f"--jitter {text} is more than a forward can vary: give at most {MOST_JITTER:g}")
        return Jitter(cvs[0], cvs[-1])

    def _refuse_ignored(self) -> None:
        steps = {
            "--draft-step": self.draft_step,
            "--target-step": self.target_step,
            "--target-window": self.target_window,
        }
        models = {"--target-config": self.target_config, "--draft-config": self.draft_config}
        if self.profile is not None:
            refuse({**steps, "--gpu": self.gpu}, f"has no effect with --profile {self.profile}: give one of the two")
        if self.gpu is not None:
            refuse(steps, f"has no effect with --gpu {self.gpu}: give one of the two")
        else:
            refuse(models, "has no effect without --gpu: give the name of a GPU, or leave it out")
        if self.profile is None and self.gpu is None:
            refuse({"--context": self.context}, "has no effect on steps: leave it out, or give --profile or --gpu")
        if self.together is not None:
            other = {"--network": self.network, "--placement two": self.placement is Placement.two or None}
            refuse(other, "is for two devices, and --together for one: leave one of them out")
        if self.placement is Placement.shared:
            refuse({"--network": self.network}, "is for two devices: leave it out, or --placement shared")


def refuse(options: Mapping[str, Any], why: str) -> None:
    """Refuse the first of these options that was given."""
    for option, value in options.items():
        if value not in (None, [], ()):
            raise InputError(f"{option} {why}")
