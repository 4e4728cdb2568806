"""A user's program, type-checked strictly against the installed wheel by `installed.py`. It is not run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

import strategies
from sim import (
    Arrivals,
    Constant,
    Lengths,
    Objectives,
    Rate,
    Server,
    System,
    Traffic,
    compile_strategy,
    long_run_speed,
    simulate,
    simulate_traffic,
    timeline,
    tune,
)
from specdec import (
    Both,
    DecodingStrategy,
    Draft,
    DraftLength,
    Guess,
    InputError,
    Pair,
    Program,
    Result,
    Score,
    State,
    Verdict,
    Verify,
    assert_lossless,
    decode,
)
from specdec.profile import Profile
from specdec.testing import run_checks, tiny_pair
from specdec.verification import Chance, Decision, Window


@dataclass(frozen=True)
class Halving(DraftLength):
    """Half as long after a rejection."""

    first: int = 4

    def init(self, facts: object) -> int:
        return self.first

    def length(self, memory: int) -> int:
        return memory

    def update(self, memory: int, verdict: Verdict) -> int:
        return memory + 1 if verdict.complete else max(1, memory // 2)


@dataclass(frozen=True)
class Parallel(DecodingStrategy):
    """Scores a window while the next one is drafted."""

    name: ClassVar[str] = "parallel"
    tokens: int = 3

    def step(self, state: State) -> Program[State]:
        asked = Draft(state.committed, state.pending, self.tokens)
        scores, fresh = yield from Both(Score(state.committed, state.pending), asked)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)


def first_only(window: Window, bonus: bool, chance: Chance) -> Decision:
    """A rule: nothing is accepted, the target's own token is taken."""
    return Decision(0, chance.pick(window.p(0)))


@dataclass(frozen=True)
class Quadratic:
    """A latency source."""

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> NDArray[np.float64]:
        return np.asarray(tokens, float) * 1e-3

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> NDArray[np.float64]:
        return 5e-3 + 1e-5 * np.asarray(width, float) ** 2


def decoded() -> str:
    with Pair.bundled(lane="inline") as pair, tiny_pair() as tiny:
        decode(tiny, Parallel(), [1, 2, 3], max_new_tokens=4, temperature=1, verification=first_only)
        found = decode(pair, strategies.Pearl(Halving()), "ROMEO:", max_new_tokens=16, temperature=1, seed=0)
        assert isinstance(found, Result)
        statistics = found.statistics
        speed: float = statistics.tokens_per_second
    return f"{found.text} {speed:.1f}"


def proved() -> list[bool]:
    passed: tuple[str, ...] = run_checks(Parallel())
    print(passed)
    return [proof.exact for proof in assert_lossless(Parallel(), verification=first_only)]


def simulated(path: Path) -> dict[str, object]:
    system, acceptance = System(Quadratic()), Rate(0.8)
    speed = long_run_speed(compile_strategy(strategies.Elastic(), system), acceptance, system)
    print(f"{float(speed.tokens_per_second):.1f}", Profile.read(path).acceptance.rate)
    print(tune(acceptance, System(Constant(1e-3, 5e-3)), tokens=0))
    print(simulate(strategies.Pearl(5), acceptance, system, tokens=1000, seed=0))
    print(timeline(strategies.Pearl(5), acceptance, system, rounds=4))
    traffic = Traffic(Arrivals(2.0), Lengths(512), Lengths(256, cv=0.5), 100)
    served = simulate_traffic(
        strategies.Pearl(4), acceptance, system, traffic, Server(replicas=2), Objectives(ttft_seconds=0.5), replications=2
    )
    return served.to_dict()


def main() -> None:
    try:
        print(decoded(), proved(), simulated(Path("profile.json")))
    except InputError as error:
        print(error)
