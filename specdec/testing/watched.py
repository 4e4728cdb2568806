"""Watches a strategy decode: which rows it was answered with, and which rows it verifies its guesses with.

The watched strategy is one that passes every effect of another on. So it is run by the runtime as it is, with its caches, and
each row is compared with a forward of the model over the whole context, without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.effects import (
    Both,
    Committed,
    Draft,
    Drafted,
    Effect,
    Fork,
    Forks,
    Guess,
    Program,
    Race,
    Score,
    Scores,
    Verdict,
    Verify,
)
from specdec.state import Facts
from specdec.strategy import DecodingStrategy

if TYPE_CHECKING:
    from typing import Self

TOLERANCE = 1e-3
"""Of rows, which are made of large logits here: far above rounding, far below any wrong row."""

TOKENS = 24
PROMPTS = ((5,), (1, 2, 3, 1, 2))
NOISES = (0.05, 1.0)
"""A draft that nearly always agrees with the target, and one that seldom does."""


@dataclass(eq=False)
class Record:
    """What was seen of a decode.

    `models`   the target and the draft
    `drafted`  the tokens that drafts made, by the identity of the row that each was sampled from
    `raced`    whether a draft was ended by the clock
    """

    models: tuple[Any, Any]
    drafted: dict[int, Drafted] = field(default_factory=dict[int, Drafted])
    raced: bool = False

    def see(self, effect: Effect[Any], answer: Any) -> Any:
        """The answer as the strategy gets it: that of a `Fork` is watched too."""
        match effect:
            case Both(left, right) | Race(left, right):
                self.raced |= isinstance(effect, Race)
                return self.see(left, answer[0]), self.see(right, answer[1])
            case Draft(committed, after):
                self.see_draft((*committed.tokens, *after.tokens), answer)
            case Score():
                self.see_scores(answer)
            case Verify(guess=guess):
                self.see_verified(guess)
            case Fork():
                return WatchedForks(self, effect.committed, answer)
            case _:
                pass
        return answer

    def see_draft(self, context: tuple[int, ...], guess: Guess) -> None:
        """The tokens of a draft are sampled from the draft's own rows."""
        for drafted, row in zip(guess.drafted, self._fresh(1, context, guess.tokens), strict=False):
            distance = abs(row - _array(drafted.q)).max()
            assert distance < TOLERANCE, (
                f"the draft reports another row behind {context} than it has without a cache: they differ by {distance:.2g}"
            )
            self.drafted[id(drafted.q)] = drafted
            context = (*context, drafted.token)

    def see_scores(self, scores: Scores) -> None:
        """The rows of the target are those of a forward over the whole context."""
        context = scores.committed.tokens
        for i, (fresh, row) in enumerate(zip(self._fresh(0, context, scores.guess.tokens), scores.rows.p, strict=False)):
            distance = abs(fresh - _array(row)).max()
            assert distance < TOLERANCE, (
                f"row {i} of a Score behind {context} is not the target's without a cache: they differ by {distance:.2g}"
            )

    def see_verified(self, guess: Guess) -> None:
        """A guess is certain, or has the row that it was sampled from."""
        for i, drafted in enumerate(guess.drafted):
            known = self.drafted.get(id(drafted.q))
            assert drafted.q is None or (known is not None and known.token == drafted.token), (
                f"guess {i} of a Verify, token {drafted.token}, comes with a row that it was not sampled from: pass drafted "
                "tokens on as they are"
            )

    def _fresh(self, which: int, context: Sequence[int], guess: Sequence[int]) -> Any:
        from specdec.testing.models import fresh_logits

        return fresh_logits(self.models[which], [*context, *guess], len(guess) + 1).softmax(-1).numpy()


def _array(row: Any) -> Any:
    return row.numpy() if hasattr(row, "numpy") else row


@dataclass(frozen=True, eq=False)
class WatchedForks:
    """The answer to a `Fork` whose continuations are watched."""

    record: Record
    committed: Committed
    forks: Forks

    def after(self, verdict: Verdict) -> Guess:
        """The continuation after `verdict.tokens`."""
        guess = self.forks.after(verdict)
        self.record.see_draft((self.committed + verdict.tokens).tokens, guess)
        return guess


@dataclass(frozen=True)
class Watched(DecodingStrategy):
    """Decodes as `strategy` does, and writes down what it sees."""

    name: ClassVar[str] = "watched"
    strategy: DecodingStrategy
    record: Record

    def init(self, prompt: Committed, facts: Facts) -> Any:
        return self.strategy.init(prompt, facts)

    def resolved(self, facts: Facts) -> Self:
        return replace(self, strategy=self.strategy.resolved(facts))

    def step(self, state: Any) -> Program[Any]:
        program, answer = self.strategy.step(state), None
        while True:
            try:
                effect = program.send(answer)
            except StopIteration as finished:
                return finished.value
            answer = self.record.see(effect, (yield effect))


def watched(strategy: DecodingStrategy, noise: float) -> Record:
    """What was seen of a sampled decode on tiny models."""
    from specdec.decoding import decode
    from specdec.testing.pair import tiny_pair

    with tiny_pair(noise) as pair:
        record = Record((pair.target, pair.draft))
        decode(pair, Watched(strategy, record), PROMPTS[1], max_new_tokens=TOKENS, temperature=1, seed=1, eos=())
    return record


def watched_rows(strategy: DecodingStrategy) -> None:
    """An `AssertionError` says which row is not the one it should be."""
    for noise in NOISES:
        try:
            watched(strategy, noise)
        except AssertionError as fault:
            raise AssertionError(f"{strategy}: {fault}") from None


def races(strategy: DecodingStrategy) -> bool:
    """Whether the strategy lets the clock decide how long a draft is."""
    return watched(strategy, 0.05).raced
