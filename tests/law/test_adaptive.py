"""Adaptive: exact whatever it has learned, and a choice that follows the closed forms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from exact_pairs import any_pair, few
from hypothesis import given
from hypothesis import strategies as st

from specdec import Committed, Costs, Draft, Facts, Fork, Guess, InputError, KnownFacts, Scores, State, Verdict, Verify, create
from specdec.law import Exact, cases, law, target_law
from specdec.law.proof import PROMPT
from specdec.verification import rules
from strategies import Adaptive, Pearl, Saguaro, Speculative
from strategies.adaptive import Counts, _watched


@dataclass(frozen=True)
class Seasoned(Adaptive):
    """Begins with what earlier rounds have taught it."""

    learned: Counts = field(default_factory=lambda: Counts(Costs(3.0)))

    def init(self, prompt: Committed, facts: Facts) -> State:
        return State(prompt, memory=self.learned)


faded = st.floats(0, 20, width=16)


@st.composite
def learned(draw: st.DrawFn) -> Counts:
    tested, outcomes = draw(faded), draw(faded)
    shares = st.floats(0, 1, width=16)
    used = draw(st.sampled_from(("autoregressive", "speculative", "pearl", "saguaro")))
    ratio = draw(st.sampled_from((0.4, 1.0, 2.0, 4.0)))
    return Counts(Costs(ratio), used, tested * draw(shares), tested, outcomes * draw(shares), outcomes)


@few
@given(
    data=st.data(),
    counts=learned(),
    fading=st.sampled_from((0.5, 0.95)),
    most=st.integers(1, 3),
    verification=st.sampled_from(sorted(rules())),
)
def test_adaptive_is_exact_whatever_it_has_learned(
    data: st.DataObject, counts: Counts, fading: float, most: int, verification: str
) -> None:
    """With a fading of 0.5 it changes its mind from round to round."""
    pair = any_pair(data)
    strategy = Seasoned(most=most, fading=fading, margin=0.0, learned=counts)
    assert law(strategy, pair, PROMPT, 3, verification) == target_law(pair, PROMPT, 3)


def used_in(strategy: Adaptive, counts: Counts) -> set[str]:
    """The strategies that some branch of a short output uses."""
    found = set[str]()
    for case in cases(24, seed=7):
        states: list[Any] = [replace(strategy.init(Committed(PROMPT), KnownFacts()), memory=counts)]

        world = Exact(case.pair, rules()["token"])
        for _ in range(3):
            states = [after for state in states for after in world.next_states(strategy, state)][:20]
            found |= {state.memory.used for state in states}
    return found


def test_the_drawn_decodes_do_switch() -> None:
    """The control of the test above: from such memories, strategies change within three rounds."""
    counts = Counts(Costs(2.0), "autoregressive", 0.9, 1.0, 0.9, 1.1)
    assert len(used_in(Seasoned(most=3, fading=0.5, margin=0.0), counts)) >= 2


@pytest.mark.parametrize("ratio", [0.4, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8, 0.95])
@pytest.mark.parametrize("hit", [0.2, 0.9])
def test_the_choice_has_the_highest_closed_form(ratio: float, rate: float, hit: float) -> None:
    adaptive = Adaptive(margin=0.0)
    name, length = adaptive.choice(Counts(Costs(ratio), "pearl", rate * 1e6, 1e6, hit * 1e6, 1e6))
    forms = {"speculative": Speculative(), "pearl": Pearl(), "saguaro": Saguaro()}
    paces = {(one, g): form.closed_form(rate, Costs(ratio), g, hit) for one, form in forms.items() for g in range(1, 13)}
    paces["autoregressive", 0] = 1.0
    assert paces[name, length] == max(paces.values())


def test_another_strategy_must_be_better_by_the_margin() -> None:
    counts = Counts(Costs(2.0), "pearl", 0.5e6, 1e6, 0.0, 1e6)
    rival, _ = Adaptive(margin=0.0).choice(counts)
    assert rival != Adaptive(margin=0.5).choice(replace(counts, used="speculative"))[0] == "speculative"


@pytest.mark.parametrize(("used", "hits", "chosen"), [("saguaro", 0.0, Draft), ("pearl", 1e6, Fork), ("pearl", 0.0, Draft)])
def test_a_switch_keeps_what_is_pending(used: str, hits: float, chosen: type[Draft | Fork]) -> None:
    """Without hits PEARL is faster than Saguaro, with hits alone it is slower. Both verify the window that is pending."""
    pending, counts = Guess.certain((1, 2)), Counts(Costs(2.0), used, 0.5e6, 1e6, hits, 1e6)
    first: Any = next(Adaptive(among="pearl+saguaro").step(State(Committed(PROMPT), pending, counts)))
    assert isinstance(first.right, chosen)
    assert first.left.guess is pending


def test_a_switch_drops_what_would_not_be_verified() -> None:
    """Speculative decoding would draft behind the pending window, and score without it: exact, and useless."""
    pending, counts = Guess.certain((1, 2)), Counts(Costs(10.0), "pearl", 0.5e6, 1e6, 0.0, 1e6)
    state = State(Committed(PROMPT), pending, counts)
    drafts: Any = next(Adaptive(among="speculative+pearl").step(state))  # its bonus token is worth more than not to wait
    assert drafts.after == Guess.empty


def test_counts_fade_and_misses_are_seen() -> None:
    guess = Guess.certain((1, 2, 3))

    counts = Counts(Costs(2.0), "saguaro", 4.0, 10.0, 5.0, 10.0)
    after = counts.faded(0.5, Verdict.of(guess, 2, 9), hit=False)
    assert (after.accepted, after.tested) == (4.0, 8.0)
    assert (after.hits, after.outcomes) == pytest.approx((4.9, 10.8))
    after = counts.faded(0.5, Verdict.of(guess, 3, 9), hit=True)
    assert (after.accepted, after.tested) == (5.0, 8.0)
    assert (after.hits, after.outcomes) == pytest.approx((5.9, 10.8))
    idle = counts.faded(0.5, Verdict.of(Guess.empty, 0, 9), hit=None)
    assert (idle.accepted, idle.tested) == (2.0, 5.0)
    assert (idle.hits, idle.outcomes) == pytest.approx((4.975, 9.95))


def test_without_news_drafting_is_tried_again() -> None:
    """Where all was rejected, plain decoding is best; the count of that fades, and the rate that is assumed comes back."""

    adaptive, counts = Adaptive(among="speculative"), Counts(Costs(3.0), "speculative", 0.0, 20.0)
    assert adaptive.choice(counts) == ("autoregressive", 0)
    counts, rounds = replace(counts, used="autoregressive"), 0
    while adaptive.choice(counts)[0] == "autoregressive":
        counts, rounds = counts.faded(adaptive.fading, Verdict.of(Guess.empty, 0, 9), None), rounds + 1
    assert 10 < rounds < 100


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"among": "pearl+elastic"}, "elastic has no draft length to choose"),
        ({"among": "pearl+"}, "unknown strategy ''"),
        ({"among": "perl"}, "did you mean pearl"),
        ({"most": 0}, "most 0"),
        ({"first": 2}, "first 2"),
        ({"fading": 0.1}, "fading 0.1"),
        ({"margin": "x"}, "margin 'x'"),
    ],
)
def test_what_it_cannot_choose_from_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create("adaptive", **parameters)


@pytest.mark.parametrize(("accepted", "foreseen", "hit"), [(2, (7,), True), (2, (), False), (1, (), None)])
def test_a_fork_that_foresees_nothing_counts_where_it_was_asked(
    accepted: int, foreseen: tuple[int, ...], hit: bool | None
) -> None:
    """`hedged` forks at the end of its window alone, and makes no draft after a miss."""

    class Foreseen:
        def after(self, verdict: Verdict) -> Guess:
            return Guess.certain(foreseen)

    pending = Guess.certain((1, 2))
    program = _watched(create("hedged", draft_length=1).step(State(Committed(PROMPT), pending)))
    program.send(None)
    verify = program.send((Scores(Committed(PROMPT), pending), Foreseen()))
    assert isinstance(verify, Verify)
    with pytest.raises(StopIteration) as ended:
        program.send(Verdict.of(pending, accepted, 9))
    assert ended.value.value[2] is hit
