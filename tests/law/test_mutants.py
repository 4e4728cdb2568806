"""Wrong rules, strategies, interpreters and commit loops: the exact law must catch every one of them, by name.

A mutant is a change that somebody was, or would be, tempted to make. A harness that catches all of these and none of the right
ones can be trusted with a new strategy. Most of them bias the output by less than sampling tests can see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from saguaro import (
    DraftsOnAMiss,
    KeptForks,
    Leaking,
    Saguaro,
    argmax_on_a_miss,
    certain_on_a_miss,
    continuation_chosen_by_p,
    forks,
    head_chosen_by_p,
    last_token_alone,
    last_token_with_the_rows_of_its_place,
    rows_of_a_miss,
    unchanged,
)
from wrong_rules import (
    Through,
    absolute_residual,
    block,
    bonus_from_the_row_before,
    colder,
    likely_enough,
    plain_p_on_reject,
    ratio_upside_down,
    reused_uniform,
    rows_off_by_one,
    sampled_from_the_draft,
    second_candidate,
    typical_acceptance,
    uniform,
    with_q,
    without_the_rejected_token,
)

import specdec
from specdec import (
    Both,
    Committed,
    DecodingStrategy,
    Draft,
    Effect,
    Guess,
    NotLossless,
    Program,
    Race,
    Score,
    State,
    StrategyError,
    Verify,
)
from specdec.effects import Known
from specdec.ending import Ending
from specdec.law import Exact, assert_lossless, cases, exact
from specdec.verification import Chance, Decision, Rule, Window, block_rule, rule, rules, token_rule

Change = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A wrong `strategy`, `verification`, or (through `change`) interpreter, and why it is tempting."""

    name: str
    tempting: str
    strategy: DecodingStrategy
    verification: str | Rule = "token"
    change: Change | None = None


def caught(strategy: DecodingStrategy, verification: str | Rule, pairs: int = 200) -> str | None:
    """How the exact law saw that something is wrong, `None` when it did not."""
    for case in cases(pairs):
        try:
            if case.law(strategy, verification) != case.target_law:
                return "another law"
        except (NotLossless, StrategyError) as error:
            return type(error).__name__
    return None


# --- wrong strategies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong(DecodingStrategy):
    """Base of the wrong ones."""

    name: ClassVar[str] = "wrong"
    draft_length: int = 2


@dataclass(frozen=True)
class WrongPearl(Wrong):
    """Base of wrong PEARLs: `Both` gives them a draft length, `Race` makes them elastic."""

    together: type[Both[Any, Any] | Race[Any]] = Both

    def ask(self, state: State) -> Effect[Any]:
        return self.together(Score(state.committed, state.pending), Draft(state.committed, state.pending, self.draft_length))


class EmittedTail(WrongPearl):
    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        if verdict.complete:
            return State(state.committed + verdict.tokens + Committed(fresh[1:].tokens))
        return state.then(verdict)


class RejectedKept(WrongPearl):
    """Keeps what was not accepted for the next round, the rejected token included."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        window = state.pending + fresh
        verdict = yield from Verify(scores, window[: len(state.pending) + 1])
        return state.then(verdict, pending=window[verdict.accepted :])


class BonusInPostVerify(WrongPearl):
    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1], bonus=True)
        return state.then(verdict, pending=fresh[1:] if verdict.complete else Guess.empty)


class BonusAndFresh(WrongPearl):
    """Takes the bonus, and still keeps the window that was drafted without knowing of it.

    Declared rows stay true, so the tokens behind the bonus are tested fairly; what is lost is where they stand.
    """

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        if verdict.complete:  # the bonus is taken to be the head of what was drafted
            return State(state.committed + Committed(verdict.tokens.tokens[:-1] + fresh[:1].tokens), pending=fresh[1:])
        return state.then(verdict)


class DiscardedToken(Wrong):
    """Drafts while confident, and throws the token away at which confidence ended."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(
            state.committed, Guess.empty, self.draft_length, stop=lambda q, token: q[token] < Fraction(1, 2)
        )
        if len(guess) < self.draft_length:
            guess = guess[:-1]
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class DiscardedInRace(WrongPearl):
    """Throws the last token of a race away if it is 0, as if the target had answered a moment earlier."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        if fresh.tokens[-1] == 0:
            fresh = fresh[:-1]
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)


class StaleScores(Wrong):
    """Keeps the scores of a rejected window for the next round, since they are paid for."""

    def step(self, state: State) -> Program[State]:
        if state.memory is not None:
            verdict = yield from Verify(state.memory, Guess.empty, bonus=True)
            return state.then(verdict)
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        stale = None if verdict.complete else replace(scores, guess=Guess.empty)
        return state.then(verdict, memory=stale)


class RetriedVerify(Wrong):
    """Verifies twice and takes the longer verdict."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        first = yield from Verify(scores, guess, bonus=True)
        second = yield from Verify(scores, guess, bonus=True)
        return state.then(max(first, second, key=lambda verdict: verdict.accepted))


class LuckyPause(Wrong):
    """Stops drafting on what the draft said, but goes back and drops what a rejected verdict makes look bad."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        if verdict.accepted == 0:  # "the draft was useless here: sample the target alone"
            scores = yield from Score(state.committed, Guess.empty)
            verdict = yield from Verify(scores, Guess.empty, bonus=True)
        return state.then(verdict)


# --- wrong interpreters and commit loops -----------------------------------------------------------------------------


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
    """End a race when that looks good: `cut` is told the tokens that the draft would make, and says how many are kept."""

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


SPECULATIVE = specdec.create("speculative", draft_length=2)
LONGER = specdec.create("speculative", draft_length=3)
PEARL = specdec.create("pearl", draft_length=2)
ELASTIC = specdec.create("elastic", most_drafted=3)
SAGUARO = Saguaro(2, fan_out=2)

MUTANTS = [
    Mutant("plain p on reject", "p is the target's law, so it looks right", SPECULATIVE, plain_p_on_reject),
    Mutant("p without the rejected token", "right for the match rule", SPECULATIVE, without_the_rejected_token),
    Mutant("ratio upside down", "papers disagree about which of p and q is the draft", SPECULATIVE, ratio_upside_down),
    Mutant("absolute residual", "|p - q| is positive without clipping", SPECULATIVE, absolute_residual),
    Mutant("accept when the ratio is over 0.5", "saves most rejections", SPECULATIVE, likely_enough),
    Mutant("typical acceptance", "Medusa's rule, faster, and lossy", SPECULATIVE, typical_acceptance),
    Mutant("second candidate from q", "a rejection deserves another try", SPECULATIVE, second_candidate),
    Mutant("bonus from the row before", "rows are numbered from the last token", SPECULATIVE, bonus_from_the_row_before),
    Mutant("match rule that samples from q", "both are samples to be compared", SPECULATIVE, sampled_from_the_draft),
    Mutant("q replaced by a uniform", "q is not at hand, and 1/V is a distribution too", SPECULATIVE, with_q(uniform)),
    Mutant("q of another temperature", "the draft samples colder and reports the raw softmax", SPECULATIVE, with_q(colder)),
    Mutant("rows off by one", "row i scores token i, or the token after it?", SPECULATIVE, rows_off_by_one),
    Mutant("rows off by one in PEARL", "pre-verify has one row and post-verify many", PEARL, rows_off_by_one),
    Mutant("block residual without pi", "copied from the token rule", SPECULATIVE, block(residual_scale=False)),
    Mutant("block keep without pi", "Z without pi looks like the residual's mass", SPECULATIVE, block(keep_scale=False)),
    Mutant("block scan stops early", "the token rule stops at the first failure", LONGER, block(early=True)),
    Mutant("block keep by pi alone", "h_n is pi_n, why not all of them", LONGER, block(mass=False)),
    Mutant("one uniform for all tests", "one draw a round is cheaper", SPECULATIVE, reused_uniform(token_rule, True)),
    Mutant("one uniform for all tests in PEARL", "a seed for each position", PEARL, reused_uniform(token_rule, True)),
    Mutant("uniform of the test reused by the residual", "same seed, same position", PEARL, reused_uniform(token_rule, False)),
    Mutant("one uniform for the block scan", "tau is one decision", LONGER, reused_uniform(block_rule, True)),
    Mutant("emitted pending tail", "they were drafted behind accepted tokens", EmittedTail(3)),
    Mutant("rejected token kept as pending", "drafting it again costs time", RejectedKept(2)),
    Mutant("bonus in post-verify", "vanilla speculative decoding has one", BonusInPostVerify(2)),
    Mutant("bonus taken to be the fresh head", "the target's row and the fresh token share a position", BonusAndFresh(2)),
    Mutant("emitted tail of a race", "they were drafted behind accepted tokens", EmittedTail(3, Race)),
    Mutant("rejected token kept after a race", "drafting it again costs time", RejectedKept(3, Race)),
    Mutant("bonus beside a race", "vanilla speculative decoding has one", BonusInPostVerify(3, Race)),
    Mutant(
        "bonus taken to be the head of a race", "the target's row and the fresh token share a position", BonusAndFresh(3, Race)
    ),
    Mutant("discarded low-confidence token", "it would be rejected anyway", DiscardedToken(2)),
    Mutant("token in progress discarded", "it was not asked for any more", DiscardedInRace(3, Race)),
    Mutant("race ended before a token", "it was not needed", ELASTIC, change=race(before_a_zero)),
    Mutant("stale scores", "the rows after a rejection are paid for", StaleScores(2)),
    Mutant("better of two verdicts", "the second costs nothing", RetriedVerify(2)),
    Mutant("fall back to the target when nothing was accepted", "the draft was useless here", LuckyPause(2)),
    Mutant(
        "argmax draft that reports softmax", "the likeliest is accepted most", SPECULATIVE, change=interpreter(argmax_draft)
    ),
    Mutant(
        "draft given up in its middle", "it failed, so nothing of it counts", LONGER, change=interpreter(gives_up_in_the_middle)
    ),
    Mutant("q one row late", "rows are stacked after the forward", SPECULATIVE, change=interpreter(rows_one_late)),
    Mutant("window trimmed by the target", "p < q will be rejected", SPECULATIVE, change=interpreter(trimmed_by_the_target)),
    Mutant("branch chosen by p", "more is accepted", PEARL, change=interpreter(branch_with_the_better_head)),
    Mutant("head of a fork committed", "it was drafted behind the outcome", Leaking(2, 2)),
    Mutant("forks of the round before", "the same outcome was foreseen there", KeptForks(2, 2)),
    Mutant("forked head chosen by p", "a branch is ready behind it", SAGUARO, change=interpreter(head_chosen_by_p)),
    Mutant("forked continuation chosen by p", "more is accepted", SAGUARO, change=interpreter(forks(continuation_chosen_by_p))),
    Mutant(
        "fork found by the last token alone",
        "the same token, so the same continuation",
        SAGUARO,
        change=interpreter(forks(last_token_with_the_rows_of_its_place)),
    ),
    Mutant("hit with the rows of a miss", "rows are stacked by position", SAGUARO, change=interpreter(forks(rows_of_a_miss))),
    Mutant("argmax comparison on a miss", "what was not sampled has no q", SAGUARO, change=interpreter(argmax_on_a_miss)),
    Mutant("cache one token short", "a roll-back off by one", SPECULATIVE, change=interpreter(unverified_context)),
    Mutant("EOS ignored inside a block", "the last token is the newest", SPECULATIVE, change=ending(EosOnlyAtTheEnd)),
    Mutant("budget counted in rounds", "a few tokens more are free", SPECULATIVE, change=ending(BudgetInRounds)),
    Mutant("EOS dropped from the output", "it is no text", SPECULATIVE, change=ending(EosIsDropped)),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant.change:
        mutant.change(monkeypatch)
    assert caught(mutant.strategy, mutant.verification), f"not caught: {mutant.name}, tempting because {mutant.tempting}"


def test_no_two_mutants_share_a_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12


# --- controls: what is right is not caught, even through the same machinery ------------------------------------------


def retraced(window: Window, bonus: bool, chance: Chance) -> Decision:
    return token_rule(Through(window), bonus, chance)


class KeptToken(Wrong):
    """Stops at low confidence and keeps the token: what `DiscardedToken` should do."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(
            state.committed, Guess.empty, self.draft_length, stop=lambda q, token: q[token] < Fraction(1, 2)
        )
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class RestKept(WrongPearl):
    """PEARL that keeps what it drafted behind a rejection: of little use, and lossless, since nobody has tested it yet."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, pending=fresh[1:])


class ElsewhereDrafted(Wrong):
    """PEARL whose draft forgets the pending window: slow, and lossless, since it reports the rows it sampled from."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from Both(
            Score(state.committed, state.pending), Draft(state.committed, Guess.empty, self.draft_length)
        )
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, pending=fresh[1:] if verdict.complete else Guess.empty)


def untouched(world: Exact, effect: Effect[Any]) -> Any:
    return NotImplemented


CONTROLS = [
    Mutant("token rule", "", SPECULATIVE, "token"),
    Mutant("block rule", "", LONGER, "block"),
    Mutant("match rule", "", SPECULATIVE, "match"),
    Mutant("PEARL", "", PEARL, "token"),
    Mutant("window passed through", "", SPECULATIVE, retraced),
    Mutant("block rule with all its parts", "", LONGER, block()),
    Mutant("the row it was sampled from", "", SPECULATIVE, with_q(lambda q: q)),
    Mutant("low-confidence token kept", "", KeptToken(2)),
    Mutant("untested rest kept", "", RestKept(2)),
    Mutant("drafted elsewhere", "", ElsewhereDrafted(2)),
    Mutant("untested rest of a race kept", "", RestKept(3, Race)),
    Mutant("race ended behind a token", "", ELASTIC, change=race(behind_a_zero)),
    Mutant("draft that failed in its middle, kept so far", "", LONGER, change=interpreter(fails_in_the_middle)),
    Mutant("forks", "", SAGUARO),
    Mutant("forks passed through", "", SAGUARO, change=interpreter(forks(unchanged))),
    Mutant("draft on a miss", "", DraftsOnAMiss(2, 2)),
    Mutant("certain tokens on a miss", "", SAGUARO, change=interpreter(forks(certain_on_a_miss))),
    Mutant("fork found by the last token alone, with its own rows", "", SAGUARO, change=interpreter(forks(last_token_alone))),
    Mutant("interpreter passed through", "", PEARL, change=interpreter(untouched)),
    Mutant("ending passed through", "", SPECULATIVE, change=ending(Ending)),
]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name.replace(" ", "-"))
def test_what_is_right_is_not_caught(control: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    if control.change:
        control.change(monkeypatch)
    assert caught(control.strategy, control.verification, pairs=48) is None


# --- what a stranger sees --------------------------------------------------------------------------------------------


def test_a_counterexample_is_small_and_names_everything() -> None:
    with pytest.raises(NotLossless) as caught_as:
        assert_lossless(EmittedTail(2), "token", pairs=60)
    first, second, *tables = str(caught_as.value).splitlines()
    assert "wrong draft_length=2" in first
    assert "token rule" in first
    assert "the target with" in first
    assert second.startswith("vocabulary 2")
    assert 1 <= len(tables) <= 8
    assert all(" | " in line for line in tables)


def test_rules_are_proved_by_name_and_by_function() -> None:
    for name in rules():
        assert assert_lossless(SPECULATIVE, rule(name), pairs=12)[0].verification == f"{name}_rule"
    with pytest.raises(NotLossless, match="plain_p_on_reject"):
        assert_lossless(SPECULATIVE, plain_p_on_reject)
