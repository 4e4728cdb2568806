"""Draft-length policies on real models: greedy text stays the target's, and what is to be learned arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

import specdec
from specdec import DraftLength, LengthFacts, Pair, StopRule, Verdict, decode
from specdec.bench.run import drafted_at_once
from specdec.lengths import POLICIES
from specdec.testing.models import greedy_tokens
from strategies import Speculative
from strategies.lengths import Confident

DRAFTING = ("speculative", "pearl", "hedged", "saguaro")


@pytest.fixture(scope="module")
def pair() -> Any:
    from specdec.testing.pair import tiny_pair

    with tiny_pair(0.3) as made:
        yield made


@pytest.mark.parametrize("policy", POLICIES.names())
@pytest.mark.parametrize("name", DRAFTING)
def test_greedy_text_is_the_targets_with_every_policy(pair: Pair, name: str, policy: str) -> None:
    strategy = specdec.create(name, draft_length=f"{policy}:most=4")
    found = decode(pair, strategy, [5, 2], max_new_tokens=16, temperature=0, eos=())
    assert found.tokens == greedy_tokens(pair.target, (5, 2), 16)
    assert len(decode(pair, strategy, [5, 2], max_new_tokens=16, temperature=1, eos=(), seed=1).tokens) == 16


@dataclass(frozen=True)
class Watched(DraftLength):
    """Shows what a policy learns."""

    policy: Confident
    memories: tuple[list[Any]] = field(default_factory=lambda: ([],), compare=False)

    def init(self, facts: LengthFacts) -> Any:
        return self.policy.init(facts)

    def stop(self, memory: Any) -> StopRule:
        return self.policy.stop(memory)

    def length(self, memory: Any) -> int:
        return self.policy.length(memory)

    def update(self, memory: Any, verdict: Verdict) -> Any:
        self.memories[0].append(self.policy.update(memory, verdict))
        return self.memories[0][-1]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", DRAFTING)
def test_a_policy_is_told_the_probability_of_each_tested_token(pair: Pair, name: str, temperature: float) -> None:
    """At temperature 0 too, where no verification rule reads the draft's rows."""
    watched = Watched(Confident(4, 0.02))
    decode(pair, specdec.create(name, draft_length=watched), [5, 2], max_new_tokens=16, temperature=temperature, eos=(), seed=2)
    learned = watched.memories[0][-1]
    assert len(learned) >= 6
    assert all(0 < q <= 1 for q, _ in learned)
    assert {passed for _, passed in learned} == {True, False}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_stop_rule_ends_branches_on_real_models(pair: Pair, temperature: float, threshold: float) -> None:
    strategy = specdec.create("saguaro", draft_length=Confident(4, threshold, 0), fan_out=2)
    found = decode(pair, strategy, [5, 2], max_new_tokens=32, temperature=temperature, eos=(), seed=3)
    assert max(found.statistics.window_forwards) == (2 if threshold > 1 else 5)


def test_first_lengths_need_no_decode(pair: Pair) -> None:
    assert drafted_at_once(Speculative("bandit"), pair) == 1
    assert drafted_at_once(Speculative("svip"), pair) == 16
