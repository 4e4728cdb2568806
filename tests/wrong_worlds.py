"""Exact interpreters and endings with one mistake each, for tests that must see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from specdec import (
    Both,
    Committed,
    Draft,
    Effect,
    Guess,
    Race,
    Score,
)
from specdec.effects import Known
from specdec.ending import Ending
from specdec.law import Exact, exact

Change = Callable[[pytest.MonkeyPatch], None]


def interpreter(answer: Callable[[Exact, Effect[Any]], Any]) -> Change:
    """Let `answer` see every effect first; `NotImplemented` passes it on."""

    class Changed(Exact):
        def answer(self, effect: Effect[Any]) -> Any:
            changed = answer(self, effect)
            return Exact.answer(self, effect) if changed is NotImplemented else changed

    return lambda patch: patch.setattr(exact, "Exact", Changed)


def argmax_draft(world: Exact, effect: Effect[Any]) -> Any:
    if not isinstance(effect, Draft):
        return NotImplemented
    context, cells = effect.committed.tokens + effect.after.tokens, []
    for _ in range(effect.length):
        q = world.pair.q(context)
        cells.append(Known(q.index(max(q)), q))
        context += (cells[-1].token,)
    return Guess(tuple(cells))


def gives_up_in_the_middle(world: Exact, effect: Effect[Any]) -> Any:
    """A draft that fails behind token 0, and whose failure takes the tokens before it along."""
    if not isinstance(effect, Draft):
        return NotImplemented
    drafted = Exact.answer(world, effect)
    return Guess.empty if 0 in drafted.tokens[:-1] else drafted


def fails_in_the_middle(world: Exact, effect: Effect[Any]) -> Any:
    """The same failure, with the tokens before it kept."""
    if not isinstance(effect, Draft):
        return NotImplemented
    drafted = Exact.answer(world, effect)
    return drafted[: drafted.tokens.index(0) + 1] if 0 in drafted.tokens else drafted


def race(cut: Callable[[tuple[int, ...]], int]) -> Change:
    """End a race when that looks good: `cut` gets the tokens that the draft would make, and returns how many are kept."""

    def answer(world: Exact, effect: Effect[Any]) -> Any:
        if not isinstance(effect, Race):
            return NotImplemented
        scores, drafted = world.answer(Both(effect.left, effect.right))
        return scores, drafted[: cut(drafted.tokens)]

    return interpreter(answer)


def before_a_zero(tokens: tuple[int, ...]) -> int:
    return tokens.index(0, 1) if 0 in tokens[1:] else len(tokens)


def behind_a_zero(tokens: tuple[int, ...]) -> int:
    return tokens.index(0) + 1 if 0 in tokens else len(tokens)


def rows_one_late(world: Exact, effect: Effect[Any]) -> Any:
    if not isinstance(effect, Draft):
        return NotImplemented
    drafted = Exact.answer(world, effect).drafted
    context = effect.committed.tokens + effect.after.tokens + tuple(cell.token for cell in drafted)
    later = [*(cell.q for cell in drafted[1:]), world.pair.q(context)]
    return Guess(tuple(Known(cell.token, q) for cell, q in zip(drafted, later, strict=True)))


def trimmed_by_the_target(world: Exact, effect: Effect[Any]) -> Any:
    """Drops drafted tokens that the target likes less than the draft does, "since they would be rejected anyway"."""
    if not isinstance(effect, Draft):
        return NotImplemented
    context, cells = effect.committed.tokens + effect.after.tokens, []
    for cell in Exact.answer(world, effect).drafted:
        if world.pair.p(context)[cell.token] < cell.q[cell.token]:
            break
        cells.append(cell)
        context += (cell.token,)
    return Guess(tuple(cells))


def branch_with_the_better_head(world: Exact, effect: Effect[Any]) -> Any:
    """Hedged drafting: two heads are drafted, and the one that the target likes better is verified."""
    if not isinstance(effect, Draft):
        return NotImplemented
    context = effect.committed.tokens + effect.after.tokens
    branches = [Exact.answer(world, effect), Exact.answer(world, effect)]
    return max(branches, key=lambda branch: world.pair.p(context)[branch.tokens[0]])


def unverified_context(world: Exact, effect: Effect[Any]) -> Any:
    """Scores the window without what was committed in the round before: a cache that was rolled back too far."""
    if not isinstance(effect, Score) or len(effect.committed) < 3:
        return NotImplemented
    return replace(Exact.answer(world, effect), committed=Committed(effect.committed.tokens[:-1]))


class EosOnlyAtTheEnd(Ending):
    def cut(self, before: Committed, after: Committed, new_tokens: int) -> tuple[tuple[int, ...], str | None]:
        fresh = after.tokens[len(before) :][: self.max_new_tokens - new_tokens]
        if fresh[-1] in self.eos:
            return fresh, "eos"
        return fresh, "length" if new_tokens + len(fresh) >= self.max_new_tokens else None


class BudgetInRounds(Ending):
    def cut(self, before: Committed, after: Committed, new_tokens: int) -> tuple[tuple[int, ...], str | None]:
        fresh = after.tokens[len(before) :]
        for i, token in enumerate(fresh, start=1):
            if token in self.eos:
                return fresh[:i], "eos"
        return fresh, "length" if new_tokens + len(fresh) >= self.max_new_tokens else None


class EosIsDropped(Ending):
    def cut(self, before: Committed, after: Committed, new_tokens: int) -> tuple[tuple[int, ...], str | None]:
        leaves, reason = Ending.cut(self, before, after, new_tokens)
        return (leaves[:-1], reason) if reason == "eos" else (leaves, reason)


def ending(cls: type[Ending]) -> Change:
    return lambda patch: patch.setattr(exact, "Ending", cls)


def untouched(world: Exact, effect: Effect[Any]) -> Any:
    return NotImplemented
