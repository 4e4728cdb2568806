"""Models of acceptance: how likely the target accepts a guess. Time depends on the text through nothing else.

A model answers in two ways, for the two kinds of interpreter:

* `start`, `accept(i)`, `reject(i)`: a Markov chain over hidden states, for exact sums. Entry `[x, y]` of `accept(i)` is the
  chance that guess `i` of a window is accepted and the hidden state goes from `x` to `y`. `accept + reject` is stochastic.
* `draws(random, tokens)`: the acceptance draws, one number for each position of an answer, drawn beforehand.
  `accepted(draws, position, tests)`: how many of the `tests` guesses from `position` on pass.

A third answer is for strategies that fork: `foreseen`, how often the draft foresees the token that the target adds.

Every position has its draw, also where no draft guessed; there it is unused. So all strategies see the same numbers, and are
compared on common random numbers.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from sim.setup.arrays import Counts, Flags, Floats, Int32s
from specdec import InputError
from specdec.acceptance import RANK_AFTER_REJECTION, Foresight


class Acceptance(ABC):
    """A model of acceptance. Give `start`, `accept`, `reject` for exact answers and `draws`, `accepted` for drawn ones.

    `longest` is the longest draft that it was measured with; a longer one is extrapolated. `None`: it holds for every length.
    """

    longest: int | None = None
    foresight: Foresight | None = None

    def foreseen(self, accepted: int, fan_out: int, complete: bool) -> Floats:
        """Chance that the target's own token after `accepted` guesses is among the draft's `fan_out` likeliest.

        `complete` says whether no guess was rejected. Without a `foresight`, each further token is assumed to be the target's
        as often as a guess is accepted there, and after a rejection in 6 of 10 cases. It is about so in greedy decoding of the
        bundled pair. Sampled decoding has much less foresight: measure it.
        """
        if self.foresight is not None:
            return np.asarray(self.foresight(fan_out, complete))
        rate = np.asarray(self.accept(accepted)).sum(axis=-1) @ self.start if complete else np.asarray(RANK_AFTER_REJECTION)
        return 1 - (1 - rate) ** fan_out

    def foreseen_at(self, position: int, accepted: int, fan_out: int, complete: bool) -> Floats:
        """`foreseen`, for a window that begins at `position` of an answer."""
        return self.foreseen(accepted, fan_out, complete)

    def foreseeing(self, foresight: Foresight | None) -> Self:
        """The same acceptance with a measured foresight, or without one."""
        twin = copy.copy(self)
        object.__setattr__(twin, "foresight", foresight)  # a field of no subclass, so that strangers' have it too
        return twin

    @property
    def start(self) -> Floats:
        """Shape (hidden,): the chance of each hidden state at the first token of an answer."""
        return np.ones(1)

    @property
    def begins_anew(self) -> bool:
        """Whether draws depend on where an answer begins, so that each answer needs draws of its own."""
        return len(self.start) > 1

    @abstractmethod
    def accept(self, index: int) -> Floats:
        """Shape (..., hidden, hidden): chance that guess `index` (from 0) of a window passes, by old and new hidden state."""

    @abstractmethod
    def reject(self, index: int) -> Floats:
        """Shape (..., hidden, hidden): chance that this guess fails, by old and new hidden state."""

    @abstractmethod
    def at_odds(self, odds: ArrayLike) -> Acceptance:
        """The same text for a better or worse draft: the odds of every guess (passing to failing) multiplied by `odds` > 0.

        An array of odds is a grid, for exact answers only. A measured foresight stays as it is.
        """

    @property
    def mean_rate(self) -> float:
        """How often the first guess of a window passes, in the long run of a text."""
        accept, hidden = self.accept(0), len(self.start)
        balance = np.vstack((np.swapaxes(accept + self.reject(0), -1, -2) - np.eye(hidden), np.ones(hidden)))
        share = np.linalg.lstsq(balance, np.append(np.zeros(hidden), 1.0))[0]
        return float((share @ accept).sum())

    @abstractmethod
    def draws(self, random: np.random.Generator, tokens: int) -> NDArray[Any]:
        """The acceptance draw of each of `tokens` positions, shape (tokens,)."""

    def accepted(self, draws: NDArray[Any], position: ArrayLike, tests: ArrayLike) -> Counts:
        """How many of `tests` guesses pass from `position` (an index into `draws`) on. Both may be arrays, which broadcast.

        Here the draw of a position is how many positions from this one on would be accepted in a row.
        """
        return np.minimum(draws[np.asarray(position)], tests)

    def accepted_from_each(self, draws: NDArray[Any], tests: int) -> NDArray[Any]:
        """`accepted` for every position in order, as simulations of many answers ask for it."""
        return self.accepted(draws, np.arange(len(draws)), tests)


def probability(value: float, what: str) -> float:
    """`value` if it is a number from 0 to 1, else an `InputError`."""
    if not (isfinite(value) and 0 <= value <= 1):
        raise InputError(f"{what} {value} is no probability: give a number from 0 to 1")
    return float(value)


def _at_odds(chance: float | Floats, odds: ArrayLike) -> Floats:
    passing = chance * np.asarray(odds, float)
    return passing / (passing + (1 - chance))


def runs_of(accepted: Flags) -> Int32s:
    """For each position how many accepted ones follow from it on, itself included."""
    stops = np.append(np.flatnonzero(~accepted), len(accepted)).astype(np.int32)
    next_stop = np.repeat(stops, np.diff(stops, prepend=-1))[: len(accepted)]
    return next_stop - np.arange(len(accepted), dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Rate(Acceptance):
    """Every guess passes with probability `rate`, independently of all others.

    An array of rates is a grid, for exact answers only. Raises `InputError` for a rate that is no probability.
    """

    rate: float | Floats
    longest: int | None = None

    def __post_init__(self) -> None:
        for rate in np.ravel(self.rate):
            probability(rate, "acceptance rate")

    def accept(self, index: int) -> Floats:
        return np.asarray(self.rate, float)[..., None, None]

    def reject(self, index: int) -> Floats:
        return 1 - self.accept(index)

    def at_odds(self, odds: ArrayLike) -> Rate:
        return Rate(_at_odds(self.rate, odds), self.longest).foreseeing(self.foresight)

    def draws(self, random: np.random.Generator, tokens: int) -> Int32s:
        return runs_of(random.random(tokens) < self.rate)


@dataclass(frozen=True)
class PerPosition(Acceptance):
    """Guess number `i` of a verified window passes with probability `rates[i]`, given that those before it passed.

    The last rate holds for all later guesses: `longest` is the number of rates, and a longer draft is extrapolated. Engines
    report shares of *all* rounds: `marginal` takes these. Raises `InputError` if there is no rate, or one that is no
    probability.
    """

    rates: Sequence[float | Floats]
    longest: int | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", len(self.rates))
        if not self.rates:
            raise InputError("per-position acceptance needs at least one rate")
        for i, rates in enumerate(self.rates):
            for rate in np.ravel(rates):
                probability(rate, f"acceptance rate of position {i}")

    def accept(self, index: int) -> Floats:
        return np.asarray(self.rates[min(index, len(self.rates) - 1)], float)[..., None, None]

    def reject(self, index: int) -> Floats:
        return 1 - self.accept(index)

    def at_odds(self, odds: ArrayLike) -> PerPosition:
        return PerPosition([_at_odds(rate, odds) for rate in self.rates]).foreseeing(self.foresight)

    def draws(self, random: np.random.Generator, tokens: int) -> Floats:
        return random.random(tokens)

    def accepted(self, draws: NDArray[Any], position: ArrayLike, tests: ArrayLike) -> Counts:
        position, tests = np.asarray(position), np.asarray(tests)
        count = np.zeros(np.broadcast(position, tests).shape, np.int64)
        alive = np.ones(count.shape, bool)
        for i in range(int(tests.max(initial=0))):
            inside = np.minimum(position + i, len(draws) - 1)
            alive = alive & (i < tests) & (draws[inside] < self.rates[min(i, len(self.rates) - 1)])
            count += alive
        return count

    def accepted_from_each(self, draws: NDArray[Any], tests: int) -> NDArray[Any]:
        """By slices of all draws, which is far quicker than one position at a time."""
        n = len(draws)
        longer = np.append(draws, np.repeat(draws[-1:], tests))
        alive, count = np.ones(n, bool), np.zeros(n, np.int16)
        for i in range(tests):
            alive &= longer[i : i + n] < self.rates[min(i, len(self.rates) - 1)]
            count += alive
        return count


@dataclass(frozen=True)
class Hidden(Acceptance):
    """Acceptance along the text is a Markov chain over hidden states.

    `passes`   shape (hidden, hidden): chance that a guess passes in state x and state y follows; a grid has axes before these
    `fails`    shape (hidden, hidden): chance that the guess fails and y follows; `passes + fails` adds up to 1 over y
    `first`    shape (hidden,): chance of each state at the first token of an answer
    """

    passes: Floats
    fails: Floats
    first: Floats

    @property
    def start(self) -> Floats:
        return self.first

    def accept(self, index: int) -> Floats:
        return self.passes

    def reject(self, index: int) -> Floats:
        return self.fails

    def at_odds(self, odds: ArrayLike) -> Hidden:
        passing, failing = (moves.sum(axis=1, keepdims=True) for moves in (self.passes, self.fails))
        chance = _at_odds(passing, np.asarray(odds)[..., None, None])
        passes = np.divide(self.passes, passing, out=np.zeros_like(self.passes), where=passing > 0)
        fails = np.divide(self.fails, failing, out=np.zeros_like(self.fails), where=failing > 0)
        return Hidden(chance * passes, (1 - chance) * fails, self.first).foreseeing(self.foresight)

    def draws(self, random: np.random.Generator, tokens: int) -> Int32s:
        hidden = len(self.first)
        steps = np.cumsum(np.concatenate((self.passes, self.fails), axis=1), axis=1)
        steps[:, -1] = 1  # sums of roundings
        moves, bits = steps.tolist(), np.empty(tokens, bool)
        state = min(bisect_right(np.cumsum(self.first).tolist(), random.random()), hidden - 1)
        for i, uniform in enumerate(random.random(tokens).tolist()):
            move = bisect_right(moves[state], uniform)
            bits[i], state = move < hidden, move % hidden
        return runs_of(bits)


def markov(after_accepted: float, after_rejected: float) -> Hidden:
    """A guess passes with one probability if the position before it passed, and with another if that position failed.

    An answer begins in the long-run mix of both. Raises `InputError` for a number that is no probability, and for 1 after
    accepted with 0 after rejected positions.
    """
    a1 = probability(after_accepted, "acceptance after an accepted position")
    a0 = probability(after_rejected, "acceptance after a rejected position")
    if a0 == 0 and a1 == 1:
        raise InputError("acceptance 1 after accepted and 0 after rejected positions never mixes: change one of the two")
    passing = a0 / (1 - a1 + a0)
    return Hidden(np.array([[0, a0], [0, a1]]), np.array([[1 - a0, 0], [1 - a1, 0]]), np.array([1 - passing, passing]))


def recorded(run_lengths: Mapping[int, int]) -> Hidden:
    """Runs of accepted tokens between two rejections, drawn from a recorded histogram {length: how often}.

    An answer begins as after a rejection. The order of the runs in the recording is not kept. Raises `InputError` for a
    negative number, or no run.
    """
    if any(length < 0 or count < 0 for length, count in run_lengths.items()) or not sum(run_lengths.values()):
        raise InputError(f"run lengths {dict(run_lengths)!r} hold no run, or a negative number: give {{length: how often}}")
    longest = max(length for length, count in run_lengths.items() if count)
    counts = np.array([run_lengths.get(length, 0) for length in range(longest + 1)], float)
    at_least = counts[::-1].cumsum()[::-1]
    ends = counts / at_least
    fails = np.zeros((longest + 1, longest + 1))
    fails[:, 0] = ends
    return Hidden(np.diag(1 - ends[:-1], 1), fails, np.eye(longest + 1)[0])


def marginal(shares: Sequence[float]) -> PerPosition:
    """The rates by position that engines report: the share of *all* rounds in which each position was accepted.

    Raises `InputError` for shares that rise, since a position counts only where the ones before it passed.
    """
    for i, share in enumerate(shares):
        probability(share, f"share of rounds that accept position {i}")
    if any(later > earlier + 1e-9 for earlier, later in pairwise(shares)):
        raise InputError(
            f"shares of rounds {', '.join(f'{share:g}' for share in shares)} rise, and shares of all rounds cannot: "
            "rates that are given the ones before are typed without a name"
        )
    return PerPosition(tuple(later / earlier if earlier else 0.0 for earlier, later in pairwise((1.0, *shares))))


def histogram(rounds: Sequence[int]) -> PerPosition:
    """Rates by position from the number of rounds that accepted 0, 1, 2, ... guesses: what vLLM reports for each request.

    Positions that no round came to are not known. Raises `InputError` for a negative number, or where no guess was tested.
    """
    if any(count < 0 for count in rounds) or len(rounds) < 2 or not sum(rounds):
        raise InputError(f"rounds by accepted guesses {list(rounds)} are not possible: count those with 0, 1, 2, ... accepted")
    at_least = np.cumsum(rounds[::-1])[::-1].tolist()
    return PerPosition(tuple(passed / tested for tested, passed in pairwise(at_least) if tested))


def mean_length(tokens: float, draft_length: int | None = None) -> Rate:
    """The acceptance rate a from a mean number of tokens.

    With a `draft_length` g, `tokens` is the `mean_acceptance_length` that engines report: (1 - a^(g+1)) / (1 - a). Longer
    drafts than g are then extrapolated. Without it, `tokens` is PEARL's mean run length between rejections, not capped by any
    window: 1 / (1 - a). Raises `InputError` unless `tokens` lies between 1 and g + 1.
    """
    most = float("inf") if draft_length is None else draft_length + 1
    if not 1 <= tokens <= most or tokens == float("inf"):
        raise InputError(f"mean accepted length {tokens} is not possible: it lies between 1 and {most} here")
    if draft_length is None:
        return Rate(1 - 1 / tokens)
    if tokens == most:
        return Rate(1.0, draft_length)
    powers = range(draft_length + 1)
    rate = float(brentq(lambda a: sum(a**i for i in powers) - tokens, 0, 1, xtol=1e-14))  # type: ignore[arg-type]
    return Rate(rate, draft_length)


def beyond_measured(acceptance: Acceptance, draft_length: int) -> tuple[str, ...]:
    """What to say of a draft that is longer than those acceptance was measured with: a sentence, or none."""
    if acceptance.longest is None or draft_length <= acceptance.longest:
        return ()
    rest = "one rate for all positions" if isinstance(acceptance, Rate) else "the last rate"
    known = acceptance.longest
    return (f"Drafts longer than {known} are extrapolated: acceptance was measured up to there, and {rest} is taken beyond.",)
