"""The effects a strategy may ask for, and the values that answer them.

Rules

1. A strategy holds no randomness, clock, model, cache, device or logger. It asks.
2. A strategy never sees a probability. `p` is always the target's, `q` always the draft's.
3. Committed and guessed tokens have different types, and only committed ones can leave. `Committed + Guess` does not exist.
4. A strategy rolls no cache back. Effects carry whole contexts; a runner keeps the longest common prefix with what it holds.
5. Effects carry meaning, not mechanism. An interpreter may fuse, delay or overlap the work behind them.
6. A sampled token is never thrown away for what it is. What ends a draft (`stop`, `Race`) may look at anything except tokens
   that are not drawn yet. Each token of the draft then still has the law `q` that it was sampled from.

Theory of operation

A round is a generator. It yields effects and returns the next state. `answer = yield from Effect(...)` is one question and
its answer. Four interpreters answer: `specdec.runtime` (two models), `specdec.law` (every branch, exactly),
`sim.stream.chain` (one run for each outcome) and `sim.stream.events` (simulated devices). `drive` is the loop of all four. An
interpreter that cannot answer an effect refuses it by name, with a `StrategyError`. Effects and answers are frozen values, so
equal states are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from types import GeneratorType
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, final

from specdec.errors import StrategyError

T = TypeVar("T", covariant=True)
L = TypeVar("L", covariant=True)
R = TypeVar("R", covariant=True)
S = TypeVar("S")


@final
@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that belong to the output (or to the prompt) for good. Only a verdict makes new ones."""

    tokens: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tokens)

    def __add__(self, other: Committed) -> Committed:
        if not isinstance(other, Committed):
            raise StrategyError(
                f"only committed tokens can follow committed tokens, not {type(other).__name__}: "
                "add `verdict.tokens`, and keep guesses in `pending`"
            )
        return Committed(self.tokens + other.tokens)


class StopRule(Protocol):
    """Ends a draft early: `rule(q, token)` is called after each token.

    `q` is the row that the token was sampled from: any array, of shape (vocabulary,). A rule may use the draft's
    probabilities up to and including this token. The target's would bias the output.
    """

    def __call__(self, q: Any, token: int) -> bool: ...


class Drafted(Protocol):
    """One guessed token and the row `q` it was really sampled from, `None` when it was certain (`q(token) = 1`).

    Each interpreter brings its own kind. The exact law draws `token` only when `token` is read.
    """

    @property
    def token(self) -> int: ...

    @property
    def q(self) -> Any: ...


@final
@dataclass(frozen=True, slots=True)
class Known:
    """A drafted token that is a plain value. After a greedy draft of the runtime `q` is `"argmax"`: no rule reads that row."""

    token: int
    q: Any = None


@final
@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that are not verified yet, in order. Slices and sums are guesses again."""

    drafted: tuple[Drafted, ...] = ()

    empty: ClassVar[Guess]

    @classmethod
    def certain(cls, tokens: Iterable[int]) -> Guess:
        """Tokens that were computed, not sampled (an n-gram look-up): `q` puts all its mass on each."""
        return cls(tuple(Known(token) for token in tokens))

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple([drafted.token for drafted in self.drafted])  # asked often: a list takes one call, a generator n

    def __len__(self) -> int:
        return len(self.drafted)

    def __getitem__(self, part: slice) -> Guess:
        return Guess(self.drafted[part])

    def __add__(self, other: Guess) -> Guess:
        if not isinstance(other, Guess):
            raise StrategyError(f"only a guess can follow a guess, not {type(other).__name__}")
        return Guess(self.drafted + other.drafted)


Guess.empty = Guess()


@dataclass(frozen=True, slots=True)
class Scores:
    """The target's rows for one window: row `i` is `p` after `committed + guess[:i]`, `len(guess) + 1` rows in all.

    `rows` belongs to the interpreter. A strategy passes the whole value on to `Verify`.
    """

    committed: Committed
    guess: Guess
    rows: Any = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification committed.

    `tokens`    the accepted guesses, then the target's own token (after a rejection, or as a bonus)
    `accepted`  how many guesses were accepted
    `complete`  whether all were
    """

    tokens: Committed
    accepted: int
    complete: bool


class Effect(Generic[T]):
    """A question to the interpreter; `answer = yield from effect`."""

    __slots__ = ()

    def __iter__(self) -> Generator[Effect[Any], Any, T]:
        return (yield self)


Program: TypeAlias = Generator[Effect[Any], Any, S]
"""A round: yields effects, returns the next state."""


@final
@dataclass(frozen=True, slots=True)
class Draft(Effect[Guess]):
    """Let the draft continue `committed + after` by up to `length` tokens (at least one, unless its context is full).

    `stop`, if given, is called after each token (`StopRule`). The token that triggers it is *kept*: discarding it would bias
    the output. The mutation tests hold that case.
    """

    committed: Committed
    after: Guess
    length: int
    stop: StopRule | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise StrategyError(f"a Draft of {self.length} tokens was asked for: draft at least 1, or do not ask")


@final
@dataclass(frozen=True, slots=True)
class Score(Effect[Scores]):
    """Let the target score the whole window in one forward pass: `len(guess) + 1` rows."""

    committed: Committed
    guess: Guess


@final
@dataclass(frozen=True, slots=True)
class Verify(Effect[Verdict]):
    """Test `guess` against `scores` by the verification rule of the run.

    `guess` must begin with the window that was scored. It may hold one token more, since the last row was scored too (PEARL
    spends that row on the first fresh token). `bonus=True` asks for one token from the row after the last accepted one. An
    empty guess is answered with one token from the first row, with or without `bonus`: a round never ends without progress.
    """

    scores: Scores
    guess: Guess
    bonus: bool = False

    def __post_init__(self) -> None:
        scored, guessed = self.scores.guess.drafted, self.guess.drafted
        if not guessed:
            object.__setattr__(self, "bonus", True)
        fits = len(guessed) + self.bonus <= len(scored) + 1
        for a, b in zip(scored, guessed, strict=False):
            fits = fits and (a is b or (a.token == b.token and a.q is b.q))
        if not fits:
            raise StrategyError(
                f"Verify of {len(self.guess)} tokens{' and a bonus' if self.bonus else ''} does not fit scores of "
                f"{len(scored)} tokens ({len(scored) + 1} rows): verify the window that was scored"
            )


@final
@dataclass(frozen=True, slots=True)
class Both(Effect[tuple[L, R]], Generic[L, R]):
    """Answer two effects side by side; it takes as long as the slower one."""

    left: Effect[L]
    right: Effect[R]


@final
@dataclass(frozen=True, slots=True)
class Race(Effect[tuple[L, Guess]], Generic[L]):
    """Answer `left` while the draft goes on: like `Both`, but `right` ends when `left` is answered.

    The draft has then made at least one token (unless its context is full) and at most `right.length`. The interpreter
    decides how many: by the clock where there is one, by a given *schedule* in the exact law. All that was drafted is kept,
    the token in progress included.
    """

    left: Effect[L]
    right: Draft

    def ended(self, tokens: int) -> Both[L, Guess]:
        """The `Both` that this race was in hindsight, when the draft made `tokens` tokens; within the limits of a race."""
        return Both(self.left, replace(self.right, length=min(max(tokens, 1), self.right.length)))


class Forks(Protocol):
    """Continuations that the draft prepared for outcomes of a verification.

    They hold for one round; a state cannot keep them.
    """

    def after(self, verdict: Verdict) -> Guess:
        """The continuation behind `verdict.tokens`, or an empty guess if that outcome was not foreseen (a miss).

        An outcome is (how many guesses were accepted, which token came last). The same verdict has the same continuation.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Fork(Effect[Forks]):
    """Let the draft prepare for the outcomes of verifying `window` behind `committed`: the effect of SSD (arXiv 2603.03251).

    After each of the `len(window) + 1` prefixes of the window the draft foresees `fan_out` next tokens, those with the
    highest `q` (of equals, those with the lowest token id). The window's own next token is left out, since a rejection there
    commits another one. Behind each foreseen token the draft samples a continuation of `length` tokens.

    Which tokens are foreseen depends on the draft's rows alone. Which continuation is used depends on the outcome alone: a
    choice that looks at the target's rows, or at the tokens of a continuation, would bias the output.
    """

    committed: Committed
    window: Guess
    fan_out: int
    length: int

    def __post_init__(self) -> None:
        if self.fan_out < 1 or self.length < 1:
            raise StrategyError(f"a Fork of {self.fan_out} branches of {self.length} tokens was asked for: ask for at least 1")


def drive(program: Program[S], answer: Callable[[Effect[Any]], Any]) -> Generator[Any, Any, S]:
    """Run one round: the one loop of every interpreter. Returns what the program returns.

    `answer(effect)` is called for each effect in turn. It returns the answer, or a generator that returns it where an answer
    takes time. What that generator yields is yielded here, so the caller knows what the round waits for.
    """
    started(program)
    given: Any = None
    while True:
        try:
            effect = program.send(given)
        except StopIteration as finished:
            return finished.value
        given = answer(effect)
        if isinstance(given, GeneratorType):
            given = yield from given


def drive_at_once(program: Program[S], answer: Callable[[Effect[Any]], Any]) -> S:
    """`drive` where no answer takes time."""
    try:
        next(drive(program, answer))
    except StopIteration as finished:
        return finished.value
    raise StrategyError("an answer that takes time was given where none may")


def started(program: Program[S]) -> Program[S]:
    """What `step` returned, checked: it must be a program."""
    if not isinstance(program, Generator):
        raise StrategyError(f"step() returned {type(program).__name__}, not a program: it must `yield from` its effects")
    return program
