"""Wrong rules, strategies, interpreters and commit loops: the exact law must catch every one of them, by name.

A mutant is a change that somebody was, or would be, tempted to make. A harness that catches all of these and none of the right
ones can be trusted with a new strategy. Most of them bias the output by less than sampling tests can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from saguaro import (
    DraftsHead,
    KeptForks,
    Leaking,
    argmax_on_a_miss,
    certain_on_a_miss,
    continuation_chosen_by_p,
    forks,
    head_chosen_by_p,
    last_token_alone,
    last_token_with_the_rows_of_its_place,
    other_rows,
    rows_of_a_miss,
    unchanged,
)
from wrong_rules import (
    Through,
    absolute_residual,
    always_a_bonus,
    block,
    bonus_from_the_row_before,
    colder,
    eager,
    likely_enough,
    negative_chance,
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
from wrong_strategies import (
    BonusAndFresh,
    BonusInPostVerify,
    DiscardedInRace,
    DiscardedToken,
    ElsewhereDrafted,
    EmittedTail,
    FallsBack,
    KeptToken,
    RejectedKept,
    RestKept,
    RetriedVerify,
    StaleScores,
)
from wrong_worlds import (
    BudgetInRounds,
    Change,
    EosIsDropped,
    EosOnlyAtTheEnd,
    argmax_draft,
    before_a_zero,
    behind_a_zero,
    branch_with_the_better_head,
    ending,
    fails_in_the_middle,
    gives_up_in_the_middle,
    interpreter,
    race,
    rows_one_late,
    trimmed_by_the_target,
    untouched,
    unverified_context,
)

import specdec
from specdec import (
    DecodingStrategy,
    NotLossless,
    Race,
    StrategyError,
)
from specdec.ending import Ending
from specdec.law import assert_lossless, cases
from specdec.verification import Chance, Decision, Rule, Window, block_rule, rule, rules, token_rule


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


SPECULATIVE = specdec.create("speculative", draft_length=2)
LONGER = specdec.create("speculative", draft_length=3)
PEARL = specdec.create("pearl", draft_length=2)
ELASTIC = specdec.create("elastic", most_drafted=3)
SAGUARO = specdec.create("saguaro", draft_length=2, fan_out=2, on_a_miss="none")
HEDGED = specdec.create("hedged", draft_length=2, fan_out=2)

MUTANTS = [
    Mutant("plain p on reject", "p is the target's law, so it looks right", SPECULATIVE, plain_p_on_reject),
    Mutant("p without the rejected token", "right for the match rule", SPECULATIVE, without_the_rejected_token),
    Mutant("ratio upside down", "papers disagree about which of p and q is the draft", SPECULATIVE, ratio_upside_down),
    Mutant("absolute residual", "|p - q| is positive without clipping", SPECULATIVE, absolute_residual),
    Mutant("accept when the ratio is over 0.5", "saves most rejections", SPECULATIVE, likely_enough),
    Mutant("typical acceptance", "Medusa's rule, faster, and lossy", SPECULATIVE, typical_acceptance),
    Mutant("second candidate from q", "a rejection deserves another try", SPECULATIVE, second_candidate),
    Mutant("residual that may be negative", "the sum over all branches is p", SPECULATIVE, eager),
    Mutant("negative chance", "it is taken as 0 where it is compared with a uniform", SPECULATIVE, negative_chance),
    Mutant("bonus in PEARL", "the law is right, and the row was never scored", PEARL, always_a_bonus),
    Mutant("bonus beside a race by the rule", "the law is right, and the row was never scored", ELASTIC, always_a_bonus),
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
    Mutant("fall back to the target when nothing was accepted", "the draft was useless here", FallsBack(2)),
    Mutant(
        "argmax draft that reports softmax", "the likeliest is accepted most", SPECULATIVE, change=interpreter(argmax_draft)
    ),
    Mutant(
        "draft given up in its middle", "it failed, so nothing of it counts", LONGER, change=interpreter(gives_up_in_the_middle)
    ),
    Mutant("q one row late", "rows are stacked after the forward", SPECULATIVE, change=interpreter(rows_one_late)),
    Mutant("window trimmed by the target", "p < q will be rejected", SPECULATIVE, change=interpreter(trimmed_by_the_target)),
    Mutant("branch chosen by p", "more is accepted", PEARL, change=interpreter(branch_with_the_better_head)),
    Mutant("forked head chosen by p in hedged PEARL", "SpecBranch's release", HEDGED, change=interpreter(head_chosen_by_p)),
    Mutant("head of the draft's when hedging fails", "a window would be ready behind it", DraftsHead(2, 2)),
    Mutant("fork with another q", "the draft samples colder", SAGUARO, change=interpreter(forks(other_rows))),
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
    Mutant("draft on a miss", "", specdec.create("saguaro", draft_length=2)),
    Mutant("hedged PEARL", "", HEDGED, change=interpreter(forks(unchanged))),
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
