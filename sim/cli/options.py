"""Options that the simulator's commands share, and the values that they stand for: a system and a model of acceptance.

An option that would be ignored is refused by name. To know what was given, such options default to `None`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from sim.cli.acceptance import ACCEPTANCE_HELP, parsed_acceptance
from sim.cli.hardware import CONTEXT, HardwareOptions, system_option
from specdec.cli.parsing import numbers, refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from sim.setup.acceptance import Acceptance
    from sim.setup.system import Jitter, System
    from specdec.profile import Profile


Placement: TypeAlias = Literal["two", "shared"]
MOST_JITTER = 100.0
MOST_TOKENS = 10_000_000
"""What can be simulated in memory and minutes."""

Seed = Annotated[
    int, typer.Option(min=0, help="Equal seeds give every strategy equal acceptance draws: the same easy and hard tokens.")
]


@dataclass(frozen=True)
class SystemOptions(HardwareOptions):
    """How often guesses are accepted, and the times of models and devices."""

    acceptance: Annotated[
        str | None,
        typer.Option(
            "--acceptance",
            metavar="MODEL",
            help=ACCEPTANCE_HELP,
        ),
    ] = None
    profile: Annotated[
        str | None, system_option("--profile", metavar="FILE", help="What specdec profile measured, instead of steps.")
    ] = None
    placement: Annotated[
        Placement | None,
        system_option(
            "--placement",
            help="Two devices, or one that both models share in turn; two, or as the profile was measured, unless given.",
        ),
    ] = None
    together: Annotated[
        str | None,
        system_option(
            "--together", metavar="T,D", help="Both work at once on one device, target T and draft D times slower (1.2,1.5)."
        ),
    ] = None
    network: Annotated[str | None, system_option(metavar="TIME", help="One way between two devices; 0 unless given.")] = None
    overhead: Annotated[
        str | None, system_option(metavar="TIME", help="What a round takes in addition to its forwards; 0 or the profile's.")
    ] = None
    jitter: Annotated[
        str | None,
        system_option(
            "--jitter",
            metavar="CV",
            help="Coefficient of variation of a forward, or T,D of target and draft; 0 or the profile's.",
        ),
    ] = None
    context: Annotated[
        int | None,
        system_option(
            min=0, max=MOST_TOKENS, help=f"With --profile or --gpu: tokens before the window; {CONTEXT} unless given."
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
            "shared": self.placement == "shared",
            "together": together,
            "network_seconds": parse_seconds(self.network, "--network") if self.network is not None else 0.0,
        }
        if self._measured is None:
            system = System(self.latency_of_models(shared=self._one_device), **devices, context=context)
        else:
            system = measured_system(self._measured, context, f"profile {self.profile}")
            if (self.placement, self.together, self.network) != (None, None, None):
                system = replace(system, **devices, batches=())
        if self.overhead is not None:
            overhead = parse_seconds(self.overhead, "--overhead")
            system = replace(system, overhead_seconds=overhead, drafting_overhead_seconds=None, batches=())
        return system if self.jitter is None else replace(system, jitter=self._jitter(self.jitter))

    def acceptance_model(self) -> Acceptance:
        """The model of acceptance."""
        return parsed_acceptance(self.acceptance, self._measured, f"profile {self.profile}")

    def kv_tokens(self, *, drafts: bool) -> int | None:
        """Tokens that the KV cache of one replica holds by the sizes of models and GPUs; `None` where these are not given.

        `drafts` says whether the draft is loaded.
        """
        return self.kv_tokens_beside(shared=self._one_device, drafts=drafts)

    def remark(self, console: Console) -> None:
        """Say how far the times can be trusted: those of a profile that was measured on a busy machine, and estimated ones."""
        from specdec.profile import busy_sentence

        if self._measured is not None and (busy := busy_sentence(self._measured.busy)):
            console.print(f"Profile {self.profile}: {busy}")
        super().remark(console)

    @property
    def _one_device(self) -> bool:
        return self.placement == "shared" or self.together is not None

    @cached_property
    def _measured(self) -> Profile | None:
        from specdec.profile import Profile

        self._refuse_ignored()
        return Profile.read(self.profile) if self.profile is not None else None

    def _jitter(self, text: str) -> Jitter:
        from sim.setup.system import Jitter

        cvs = numbers("--jitter", text, 2 if "," in text else 1)
        if max(cvs) > MOST_JITTER:
            raise InputError(f"--jitter {text} is more than a forward can vary: give at most {MOST_JITTER:g}")
        return Jitter(cvs[0], cvs[-1])

    def _refuse_ignored(self) -> None:
        if self.profile is not None:
            refuse(self.given(), f"has no effect with --profile {self.profile}: give one of the two")
        elif not self.computed:
            refuse({"--context": self.context}, "has no effect on steps: leave it out, or give --profile or --gpu")
        if self.together is not None:
            other = {"--network": self.network, "--placement two": self.placement == "two" or None}
            refuse(other, "is for two devices, and --together for one: leave one of them out")
        if self.placement == "shared":
            refuse({"--network": self.network}, "is for two devices: leave it out, or --placement shared")
