"""Options that the simulator's commands share, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from sim.setup.latency import Latency
    from sim.setup.system import System
    from specdec.profile import Profile


class Placement(StrEnum):
    two = "two"
    shared = "shared"


_SYSTEM = "Models and devices"

AcceptanceOption = Annotated[
    str | None,
    typer.Option(
        "--acceptance",
        metavar="MODEL",
        help="How often a guess is accepted: a rate (0.8); rates by position in the window (0.9,0.8,0.7); markov:A,R after an "
        "accepted and a rejected token; run:L, mean run length between rejections. With --profile: rate or recorded, its own.",
    ),
]
DraftStep = Annotated[
    str | None, typer.Option(metavar="TIME", help="One draft step, such as 1ms or 300us.", rich_help_panel=_SYSTEM)
]
TargetStep = Annotated[str | None, typer.Option(metavar="TIME", help="One target forward of width 1.", rich_help_panel=_SYSTEM)]
TargetWindow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WIDTH=TIME", help="A wider target forward, such as 4=5.5ms; may be repeated.", rich_help_panel=_SYSTEM
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", metavar="FILE", help="What specdec profile measured, instead of steps.", rich_help_panel=_SYSTEM),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="Estimate steps by the roofline of a GPU, such as H200.", rich_help_panel=_SYSTEM
    ),
]
TargetConfig = Annotated[
    str | None, typer.Option(metavar="FILE", help="With --gpu: config.json of the target.", rich_help_panel=_SYSTEM)
]
DraftConfig = Annotated[
    str | None, typer.Option(metavar="FILE", help="With --gpu: config.json of the draft.", rich_help_panel=_SYSTEM)
]
PlacementOption = Annotated[
    Placement, typer.Option("--placement", help="Two devices, or one that both models share in turn.", rich_help_panel=_SYSTEM)
]
TogetherOption = Annotated[
    str | None,
    typer.Option(
        "--together", metavar="T,D", help="Both at once, target T and draft D times slower (1.2,1.5).", rich_help_panel=_SYSTEM
    ),
]
Network = Annotated[str, typer.Option(metavar="TIME", help="One way between two devices.", rich_help_panel=_SYSTEM)]
Overhead = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="What a round takes beside its forwards; 0 or the profile's.", rich_help_panel=_SYSTEM),
]
JitterOption = Annotated[
    str | None,
    typer.Option(
        "--jitter",
        metavar="CV",
        help="Coefficient of variation of a forward, or T,D of target and draft; 0 or the profile's.",
        rich_help_panel=_SYSTEM,
    ),
]
Context = Annotated[
    int, typer.Option(min=0, help="Tokens before the window, where latency depends on it.", rich_help_panel=_SYSTEM)
]


@dataclass(frozen=True)
class Setup:
    """The options as they were typed; `system` and `accepting` check them and make something of them."""

    acceptance: str | None
    draft_step: str | None
    target_step: str | None
    target_window: list[str] | None
    profile: str | None
    gpu: str | None
    target_config: str | None
    draft_config: str | None
    placement: Placement
    together: str | None
    network: str
    overhead: str | None
    jitter: str | None
    context: int

    def build(self) -> tuple[System, Acceptance]:
        """The system to simulate and how often it accepts."""
        from specdec.profile import Profile

        measured = Profile.read(self.profile) if self.profile is not None else None
        return self._system(measured), self._acceptance(measured)

    def _system(self, measured: Profile | None) -> System:
        from sim.setup.latency import parse_seconds
        from sim.setup.profiles import measured_system
        from sim.setup.system import Jitter, System
        from specdec.profile import Slowdown

        shared = self.placement is Placement.shared
        together = Slowdown(*_numbers("--together", self.together, 2)) if self.together is not None else None
        jitter = None
        if self.jitter is not None:
            cvs = _numbers("--jitter", self.jitter, 2 if "," in self.jitter else 1)
            jitter = Jitter(cvs[0], cvs[-1])
        overhead = parse_seconds(self.overhead, "--overhead") if self.overhead is not None else None
        network = parse_seconds(self.network, "--network")
        if measured is None:
            latency = self._latency()
            return System(latency, shared, together, network, overhead or 0.0, jitter or Jitter(), self.context)
        system = measured_system(measured, self.context, f"profile {self.profile}")
        if shared or together is not None or network:
            system = replace(system, shared=shared, together=together, network_seconds=network)
        if overhead is not None:
            system = replace(system, overhead_seconds=overhead, drafting_overhead_seconds=None)
        return system if jitter is None else replace(system, jitter=jitter)

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

    def _acceptance(self, measured: Profile | None) -> Acceptance:
        from sim.setup.acceptance import PerPosition, Rate, markov, mean_length
        from sim.setup.profiles import measured_acceptance

        text = self.acceptance
        if measured is not None and (text is None or text in ("rate", "recorded")):
            return measured_acceptance(measured, recorded=text == "recorded", source=f"profile {self.profile}")
        if text is None:
            raise InputError("no acceptance is given: give --acceptance 0.8, or --profile")
        kind, colon, rest = text.partition(":")
        if colon and kind == "markov":
            return markov(*_numbers("--acceptance", rest, 2))
        if colon and kind == "run":
            return mean_length(_numbers("--acceptance", rest, 1)[0])
        rates = _numbers("--acceptance", text)
        return Rate(rates[0]) if len(rates) == 1 else PerPosition(tuple(rates))


def _numbers(option: str, text: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (count is not None and len(numbers) != count):
        wanted = "a number" if count == 1 else f"{count} numbers with a comma" if count else "a number, or several with commas"
        raise InputError(f"{option} {text!r} is not understood: give {wanted}, see --help")
    return numbers
