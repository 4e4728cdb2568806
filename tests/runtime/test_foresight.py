"""Foresight: a draft that knows the noise by which the target picks its token foresees more of them, at no cost to the law."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec import Pair, create, decode
from specdec.acceptance import ForesightSums
from specdec.measure import measure_acceptance
from specdec.measure.acceptance import foresight_sums
from specdec.sampling import Dice, raced
from specdec.testing.models import model, resembling

VOCABULARY = 12


@pytest.fixture(scope="module")
def twins() -> Iterator[Pair]:
    """A draft that is the target."""
    target = model("llama", VOCABULARY, seed=1)
    with Pair(target, resembling(target, 0.0), lane="inline") as made:
        yield made


def rows(seed: int, positions: int = 6, vocabulary: int = VOCABULARY) -> Tensor:
    return (2 * torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed))).double().softmax(-1)


def test_a_race_picks_tokens_by_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 4.0])
    counts = torch.bincount(torch.tensor([raced(weights, race) for race in range(8000)]), minlength=4)
    expected = 8000 * weights / 8
    assert counts[0] == 0
    assert ((counts - expected)[1:].square() / expected[1:]).sum() < 13.8  # chi-square of 2 degrees of freedom, 1 in 1,000


def test_one_token_is_picked_by_a_race_and_the_next_by_fresh_noise() -> None:
    weights = rows(0)[0]
    dice, picks = Dice("seed"), []
    for _ in range(400):
        race = dice.race()
        assert dice.race() == race  # until it is used
        picks.append((dice.pick(weights), raced(weights, race), dice.pick(weights)))
    assert all(first == known for first, known, _ in picks)
    assert sum(first == second for first, _, second in picks) < 0.7 * len(picks)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["saguaro", "hedged"])
def test_a_draft_that_is_the_target_foresees_every_token(twins: Pair, name: str, temperature: float) -> None:
    """One branch is enough, also when sampled: both meet the same noise."""
    strategy = create(name, draft_length=3, fan_out=1)
    found = decode(twins, strategy, [1, 2], max_new_tokens=60, temperature=temperature, seed=3, eos=()).statistics
    assert found.complete_outcomes == found.outcomes > 5
    assert found.hit_rate == 1


def by_hand(p: Tensor, q: Tensor) -> list[tuple[float, float]]:
    """Of each position: the chance of a rejection, and that both pick the same token by a race."""
    vocabulary = range(len(p[0]))
    return [
        (
            float((a - b).clamp(min=0).sum()),
            sum(1 / sum(max(float(a[z] / a[x]), float(b[z] / b[x])) for z in vocabulary) for x in vocabulary),
        )
        for a, b in zip(p, q, strict=True)
    ]


def test_foresight_by_races_is_the_formula_of_one_race() -> None:
    """Daliri, Musco and Suresh: both pick `x` with probability 1 / sum_z max(p_z / p_x, q_z / q_x)."""
    p, q = rows(1), rows(2)
    found, expected = foresight_sums(p, q, races=3000), by_hand(p, q)
    assert found.rejected == pytest.approx(sum(rejected for rejected, _ in expected))
    weights = [1.0, *(1 - rejected for rejected, _ in expected[:-1])]
    assert found.accepted == pytest.approx(sum(weights))
    same = sum(weight * both for weight, (_, both) in zip(weights, expected, strict=True))
    assert found.foreseen_accepted[0] == pytest.approx(same, abs=0.05)
    assert list(found.foreseen_accepted) == sorted(found.foreseen_accepted)


def test_greedy_foresight_is_the_rank_among_the_drafts_tokens() -> None:
    """The draft's order is 2, 0, 1, 3. Target tokens: its second, its first, its last."""
    ranking = torch.tensor([[0.3, 0.2, 0.4, 0.1]]).double().repeat(3, 1)
    p = torch.nn.functional.one_hot(torch.tensor([0, 2, 3]), 4).double()
    q = torch.nn.functional.one_hot(torch.tensor([2, 2, 2]), 4).double()
    found = foresight_sums(p, q, ranking)
    assert (found.rejected, found.foreseen_rejected[:3]) == (2, (1, 1, 2))
    assert (found.accepted, found.foreseen_accepted[:4]) == (2, (0, 1, 1, 2))  # the third stands behind an accepted token
    assert (found + found).foresight == found.foresight
    assert ForesightSums().foresight is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_measured_foresight_is_that_of_a_decode(temperature: float) -> None:
    target = model("llama", VOCABULARY, seed=1)
    pair = Pair(target, resembling(target, 0.1), lane="inline")
    texts = [[number] for number in range(VOCABULARY)]
    measured = measure_acceptance(pair, texts, new_tokens=100, temperature=temperature).foreseen.foresight
    options: dict[str, Any] = {"max_new_tokens": 100, "temperature": temperature, "eos": ()}
    decodes = decode(pair, create("saguaro", draft_length=2, fan_out=2), texts, batch_size=4, seed=0, **options)
    total = sum((one.statistics for one in decodes[1:]), decodes[0].statistics)
    assert measured is not None
    assert total.foresight is not None
    assert total.foresight.after_acceptance[0] == pytest.approx(measured(2, True), abs=0.06)
    assert total.foresight.after_rejection[0] == pytest.approx(measured(2, False), abs=0.06)
