"""The effects a strategy may ask for, and the values that answer them.

Rules

1. A strategy holds no randomness, clock, model, cache, device or logger. It asks.
2. A strategy never sees a probability. `p` is always the target's, `q` always the draft's.
3. Committed tokens and guesses have different types, and only committed tokens are output. `Committed + Guess` does not exist.
4. A strategy rolls no cache back. Effects carry whole contexts; a runner keeps the longest common prefix with what it holds.
5. Effects say what is wanted, not how it is done. An interpreter may fuse, delay or overlap the work.
6. Never drop a drafted token because of its value, or of the values of later tokens: that biases the output. What ends a draft
   (`stop`, `Race`) may look at anything that is drawn already. Each token of the draft then has the law `q` that it was
   sampled from.

Theory of operation

A round is a generator. It yields effects and returns the next state. `answer = yield from Effect(...)` is one question and
its answer. Four interpreters answer, and `drive` is the loop of all four. To add an effect, teach it to these functions:

    specdec.runtime.engine   `Engine.answer`: two models (the work of their lanes is in `runtime.sides`)
    specdec.law.exact        `Exact.answer`: every branch, exactly
    sim.stream.chain         `_Round.answer`: one run for each outcome of a verification
    sim.stream.events        `_Machine._answer`: simulated devices
    sim.stream.stage         `stage_of`, and `work_done` of `sim.stream.placeholder`: what both simulators share

An interpreter that cannot answer an effect refuses it by name, with a `StrategyError`. Effects and answers are frozen values,
so equal states are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from types import GeneratorType
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, final

from specdec.errors import StrategyError
from specdec.tokens import Tokens

T = TypeVar("T", covariant=True)
L = TypeVar("L", covariant=True)
R = TypeVar("R", covariant=True)
S = TypeVar("S")


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class Committed:
    """Tokens that belong to the output (or to the prompt) for good. Only a verdict brings new ones.

    `text`   their ids. A sum shares its beginning with what it was made from, so a round does not copy the text
    """

    text: Tokens

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        object.__setattr__(self, "text", Tokens.of(tokens))

    @property
    def tokens(self) -> tuple[int, ...]:
        """All ids as a tuple, which takes longer for a long text. A part of `text` takes as long as the part."""
        return self.text.whole

    def __len__(self) -> int:
        return len(self.text)

    def __iter__(self) -> Iterator[int]:
        return iter(self.text)

    def __repr__(self) -> str:
        return f"Committed(tokens={self.tokens})"

    def __add__(self, other: Committed) -> Committed:
        if not isinstance(other, Committed):
            raise StrategyError(
                f"only committed tokens can follow committed tokens, not {type(other).__name__}: "
                "add `verdict.tokens`, and keep guesses in `pending`"
            )
        return Committed(self.text.grown(other.tokens))


class StopRule(Protocol):
    """Ends a draft early: `rule(q, token)` is called after each token, and returns whether to end there.

    `q` is the row that the token was sampled from: any array, of shape (vocabulary,). A rule may use the draft's
    probabilities up to and including this token. Never let it use the target's: that would bias the output.
    """

    def __call__(self, q: Any, token: int) -> bool: ...


class Drafted(Protocol):
    """One guessed token, and the row `q` that it was really sampled from; `None` where it is certain (`q(token) = 1`).

    Each interpreter has its own class for it. The exact law draws the token when `token` is first read.
    """

    @property
    def token(self) -> int: ...

    @property
    def q(self) -> Any: ...


@final
@dataclass(frozen=True, slots=True)
class Known:
    """A drafted token whose value is known. `q` is `"argmax"` after a greedy draft of the runtime: no rule reads that row."""

    token: int
    q: Any = None


@final
@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that are not verified yet, in order. A slice of a guess is a guess, and so is the sum of two."""

    drafted: tuple[Drafted, ...] = ()

    empty: ClassVar[Guess]

    @classmethod
    def certain(cls, tokens: Iterable[int]) -> Guess:
        """Tokens that were computed, not sampled (an n-gram look-up): the `q` of each is one-hot."""
        return cls(tuple(Known(token) for token in tokens))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Their ids."""
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
    """The target's rows for one window. A strategy passes the whole value on to `Verify`.

    `committed`   the context that was scored
    `guess`       the window after it
    `rows`        row `i` is `p` after `committed + guess[:i]`: `len(guess) + 1` rows, fewer where the context is full. Their
                  form is the interpreter's own; a strategy does not read them
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
    `guess`     what was tested; its rows are the draft's own, which a draft-length policy may learn from
    """

    tokens: Committed
    accepted: int
    complete: bool
    guess: Guess = Guess.empty

    @classmethod
    def of(cls, guess: Guess, accepted: int, token: int | None) -> Verdict:
        """The first `accepted` tokens of `guess`, then the target's own `token`, if there is one."""
        own = () if token is None else (token,)
        return cls(Committed(guess[:accepted].tokens + own), accepted, accepted == len(guess), guess)


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
    """Let the draft continue a text. The answer is the new tokens alone, as a `Guess`.

    `committed`   the text
    `after`       guesses that follow it, such as the pending window
    `length`      how many tokens to draft, at least 1
    `stop`        called after each token (`StopRule`); the token at which it ends the draft is *kept*, since dropping it would
                  bias the output

    The answer is shorter where `stop` ended the draft, or where its context is full. It is empty where no token fits, and once
    the draft has failed.
    """

    committed: Committed
    after: Guess
    length: int
    stop: StopRule | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.length):
            raise StrategyError(
                f"a Draft of {self.length!r} tokens was asked for: draft an integer of at least 1, or do not ask"
            )


@final
@dataclass(frozen=True, slots=True)
class Score(Effect[Scores]):
    """Let the target score `guess` after `committed` in one forward: `len(guess) + 1` rows, fewer where its context is full."""

    committed: Committed
    guess: Guess


@final
@dataclass(frozen=True, slots=True)
class Verify(Effect[Verdict]):
    """Test `guess` against `scores` by the verification rule of the run.

    `scores`   the target's rows: one for each token of the scored window, and one for the token after it
    `guess`    the scored window, a beginning of it, or the window and one token more: the last row tests that token (so does
               PEARL with its first fresh token)
    `bonus`    whether to add a token from the next row if all of `guess` is accepted; that row must be left

    An empty guess is answered with one token from the first row, with or without `bonus`. So a round always commits a token.
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
    """Answer two effects at the same time; it takes as long as the slower one."""

    left: Effect[L]
    right: Effect[R]


@final
@dataclass(frozen=True, slots=True)
class Race(Effect[tuple[L, Guess]], Generic[L]):
    """Answer `left` while the draft goes on: like `Both`, but `right` ends when `left` is answered.

    The draft has then made at least one token (unless its context is full) and at most `right.length`. The interpreter
    decides how many: by the clock where there is one, by a given *schedule* in the exact law. The token in progress is
    finished and kept.
    """

    left: Effect[L]
    right: Draft

    def ended(self, tokens: int) -> Both[L, Guess]:
        """The `Both` with the same answer, for a draft that made `tokens` tokens (at least 1, at most `right.length`)."""
        return Both(self.left, replace(self.right, length=min(max(tokens, 1), self.right.length)))


class Forks(Protocol):
    """The answer to a `Fork`: a continuation for each outcome that the draft foresaw. It holds for one round."""

    def after(self, verdict: Verdict) -> Guess:
        """The continuation after `verdict.tokens`; an empty guess if that outcome was not foreseen (a miss).

        The same verdict has the same continuation.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Fork(Effect[Forks]):
    """Let the draft prepare for outcomes of a verification: the effect of SSD (arXiv 2603.03251).

    `committed`   the text
    `window`      the guesses after it that are to be verified
    `fan_out`     how many tokens of the target's are foreseen after each number of accepted guesses: one number for all, or one
                  for each of 0, 1, ... `len(window)` accepted guesses, of which some may be 0
    `length`      how many tokens to draft behind each foreseen outcome, at least 1
    `stop`        called after each token of a continuation, as in `Draft`

    An *outcome* of verifying `window` is how many of its tokens are accepted, and which token the target adds after them. The
    draft foresees tokens that it finds likely, and none with `q = 0`. The next token of the window is left out, since a
    rejection there commits another one. For each foreseen outcome the draft samples a continuation.

    In the runtime, the draft foresees the tokens with the highest `q` over noise, and the target's own token is the one with
    the highest weight over the same noise (`specdec.sampling.raced`). So the draft foresees more of what the target samples.
    In greedy decoding there is no noise.

    A continuation is drawn by random numbers that nothing else has used, and is chosen by the outcome alone. So its tokens have
    the law `q` after every outcome, whichever outcomes are foreseen. A choice that looks at the target's rows, or at the tokens
    of a continuation, would bias the output.
    """

    committed: Committed
    window: Guess
    fan_out: int | tuple[int, ...]
    length: int
    stop: StopRule | None = None

    def __post_init__(self) -> None:
        per_number = self.fan_out if isinstance(self.fan_out, tuple) else (self.fan_out,)
        counts = all(_is_count(number) or (isinstance(self.fan_out, tuple) and number == 0) for number in per_number)
        if not (counts and any(per_number) and _is_count(self.length)):
            raise StrategyError(
                f"a Fork of {self.fan_out!r} branches of {self.length!r} tokens was asked for: ask for integers of at least 1"
            )
        if isinstance(self.fan_out, tuple) and len(self.fan_out) != len(self.window) + 1:
            raise StrategyError(
                f"a Fork behind {len(self.window)} guesses has {len(self.fan_out)} fan-outs: give one number, or "
                f"{len(self.window) + 1}, for 0 to {len(self.window)} accepted guesses"
            )

    @property
    def fan_outs(self) -> tuple[int, ...]:
        """How many tokens are foreseen after 0, 1, ... `len(window)` accepted guesses."""
        return self.fan_out if isinstance(self.fan_out, tuple) else (self.fan_out,) * (len(self.window) + 1)


def _is_count(value: Any) -> bool:
    """Whether it is an integer of at least 1, numpy's included."""
    return (type(value) is int or isinstance(value, Integral)) and int(value) >= 1


def drive(program: Program[S], answer: Callable[[Effect[Any]], Any]) -> Generator[Any, Any, S]:
    """Run one round: the one loop of every interpreter. Returns what the program returns.

    `answer(effect)` is called for each effect in turn. It returns the answer or, where that takes time, a generator that
    returns the answer. What that generator yields is yielded here: it tells the caller what the round waits for.
    """
    _require_program(program)
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


def _require_program(program: object) -> None:
    if not isinstance(program, (GeneratorType, Generator)):  # the first is the usual one, and is looked up faster
        raise StrategyError(f"step() returned {type(program).__name__}, not a program: it must `yield from` its effects")
