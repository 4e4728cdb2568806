"""The staged drafter: the tokens and rows of the middle model alone, whatever the small one guesses."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise, product
from typing import Any, cast

import numpy as np
import pytest
import torch

from specdec import InputError, ModelError, Pair, PairError, create, decode
from specdec.runtime.messages import Drafting, DraftRequest, ScoreRequest, Scoring
from specdec.runtime.staged import NewStaged, Staged
from specdec.runtime.worker import NewWorker, Worker
from specdec.sampling import Sampling, inverted
from specdec.testing.models import greedy_tokens, model, resembling
from strategies.lengths import Confident

VOCABULARY = 12
LANES = ("inline", "thread", "process")


@pytest.fixture(scope="module")
def small(draft: Any) -> Any:
    return resembling(draft, 0.5, seed=7)


@pytest.fixture(scope="module", params=LANES)
def staged_pair(request: pytest.FixtureRequest, target: Any, draft: Any, small: Any) -> Iterator[Pair]:
    with Pair(target, draft, lane=request.param, small_draft=small, small_draft_length=2) as pair:
        yield pair


# --- exact: on tables, as fractions ----------------------------------------------------------------------------------

UNEVEN = (0.1, 0.9, 0.4, 0.6, 0.9, 0.1, 0.6, 0.6)

Table = dict[tuple[int, ...], tuple[Fraction, ...]]


def table(seed: int, depth: int, size: int = 3) -> Table:
    """Rows that depend on the whole text, as fractions of 4, some of them 0."""
    dice = random.Random(seed)
    rows: Table = {}
    for length in range(depth):
        for text in product(range(size), repeat=length):
            cuts = sorted(dice.randint(0, 4) for _ in range(size - 1))
            rows[text] = tuple(Fraction(end - start, 4) for start, end in pairwise([0, *cuts, 4]))
    return rows


class Tabled:
    """A worker over a table. All its numbers are multiples of 1/4, so that floats are exact."""

    def __init__(self, rows: Table) -> None:
        self.rows = rows
        self.asks_mode, self.why_eager = False, None
        self.forwards = self.positions = 0

    def row(self, text: Sequence[int]) -> torch.Tensor:
        return torch.tensor([float(share) for share in self.rows[tuple(text)]], dtype=torch.float64)

    def draft(self, requests: Sequence[DraftRequest], answered: Any = None) -> list[Drafting]:
        found: list[Drafting] = []
        for request in requests:
            text, rows = list(request.context), list[torch.Tensor]()
            for uniform in request.uniforms[: request.length]:
                rows.append(self.row(text))
                text.append(inverted(rows[-1], uniform))
            found.append(Drafting(text[len(request.context) :], torch.stack(rows), 0.0))
        return found

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scoring]:
        self.forwards += 1
        self.positions += sum(request.positions for request in requests)
        return [
            Scoring(
                torch.stack([self.row(text[: len(text) - back]) for back in reversed(range(positions))]), None, positions, 0.0
            )
            for _, text, positions in requests
        ]


def staged(middle: Table, little: Table, ahead: int, limit: int = 100) -> Staged:
    size = len(next(iter(middle.values())))
    workers = cast("tuple[Worker, Worker]", (Tabled(middle), Tabled(little)))
    return Staged(*workers, ahead, known=size, limit=limit)


def cells(length: int) -> Iterator[tuple[tuple[float, ...], Fraction]]:
    """Uniforms, one for each cell of equal numbers, and the chance of the cell: rows are constant multiples of 1/4."""
    for numbers in product(range(4), repeat=length):
        yield tuple((number + 0.5) / 4 for number in numbers), Fraction(1, 4**length)


@pytest.mark.parametrize("ahead", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_law_of_a_staged_draft_is_the_middle_models(seed: int, ahead: int) -> None:
    length = 4
    middle, little = table(seed, length + 1), table(seed + 100, length + 1)
    law: defaultdict[tuple[int, ...], Fraction] = defaultdict(Fraction)
    for uniforms, chance in cells(length):
        (drafting,) = staged(middle, little, ahead).draft([DraftRequest(0, (), length, uniforms)])
        assert drafting.q is not None
        for number, row in enumerate(drafting.q):
            assert tuple(row.tolist()) == tuple(map(float, middle[tuple(drafting.tokens[:number])]))
        law[tuple(drafting.tokens)] += chance
    expected: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
    for _ in range(length):
        expected = {
            (*text, token): chance * share
            for text, chance in expected.items()
            for token, share in enumerate(middle[text])
            if share
        }
    assert law == expected


@pytest.mark.parametrize("seed", range(4))
def test_three_models_composed_have_the_law_of_the_target(seed: int) -> None:
    """A staged draft of two tokens under the token rule, computed by hand: the first two tokens of the output."""
    target, middle, little = table(seed + 50, 3), table(seed, 3), table(seed + 100, 3)
    law: defaultdict[tuple[int, int], Fraction] = defaultdict(Fraction)

    def own(text: tuple[int, ...], chance: Fraction, row: Sequence[Fraction]) -> None:
        """The target's token after `text`, from `row`, and a second one if it is the first."""
        for token, share in enumerate(row):
            if len(text) == 1:
                law[text[0], token] += chance * share
            elif share:
                own((token,), chance * share, target[(token,)])

    for uniforms, chance in cells(2):
        (drafting,) = staged(middle, little, 1).draft([DraftRequest(0, (), 2, uniforms)])
        assert drafting.q is not None
        text: tuple[int, ...] = ()
        for token, q in zip(drafting.tokens, drafting.q.tolist(), strict=True):
            p, row = target[text], [Fraction(share) for share in q]
            accept = min(Fraction(1), p[token] / row[token])
            rest = [max(Fraction(0), a - b) for a, b in zip(p, row, strict=True)]
            if accept < 1:
                own(text, chance * (1 - accept), [share / sum(rest) for share in rest])
            chance *= accept
            text = (*text, token)
        law[drafting.tokens[0], drafting.tokens[1]] += chance
    first_two = {(a, b): pa * pb for a, pa in enumerate(target[()]) for b, pb in enumerate(target[(a,)])}
    assert {text: chance for text, chance in law.items() if chance} == {text: p for text, p in first_two.items() if p}


def test_a_forward_serves_all_tokens_that_were_guessed_right() -> None:
    same = table(1, 9)
    for ahead, forwards in ((1, 4), (3, 2), (7, 1), (9, 1)):
        drafter = staged(same, same, ahead)
        drafter.draft([DraftRequest(0, (), 8, UNEVEN)])
        middle = cast(Any, drafter)._middle
        assert middle.forwards == forwards
        assert middle.positions == 8  # no guess was made for nothing
    beyond = staged(same, same, 3, limit=4)  # the small model holds 4 tokens; then the middle one works alone
    beyond.draft([DraftRequest(0, (), 8, UNEVEN)])
    assert cast(Any, beyond)._middle.forwards == 5


def test_a_row_that_is_no_distribution_costs_no_token_before_it() -> None:
    """The middle model goes on token by token, from the rest of the request's uniforms."""
    middle, little = table(2, 9), table(3, 9)
    request = DraftRequest(0, (), 8, UNEVEN)
    drafter: Any = staged(middle, little, 2)
    score = drafter._middle.score

    def failing(requests: Sequence[ScoreRequest]) -> list[Scoring]:
        if drafter._middle.forwards == 2:
            raise ModelError("NaN")
        return score(requests)

    (expected,) = drafter._middle.draft([request])
    drafter._middle.score = failing
    (found,) = drafter.draft([request])
    assert drafter._middle.forwards == 2
    assert found.tokens == expected.tokens
    assert found.q is not None
    assert torch.equal(found.q, expected.q)


# --- real models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(0.7, top_k=5, repetition_penalty=1.3)])
def test_tokens_and_rows_are_those_of_the_middle_model(draft: Any, small: Any, sampling: Sampling) -> None:
    alone = NewWorker(draft, VOCABULARY)
    both = NewStaged(alone, NewWorker(small, VOCABULARY), 3)
    assert both.models == (draft, small)
    assert both.vocabulary == VOCABULARY
    dice, first, second = random.Random(0), alone(), both()
    prompts = {0: [1, 2, 3], 1: [4]}
    for slot, prompt in prompts.items():
        for drafter in (first, second):
            drafter.begin(sampling, prompt, slot, 2)
    for length in (1, 2, 5, 9, 4):
        uniforms = {slot: [dice.random() for _ in range(length)] if sampling.temperature else () for slot in prompts}
        requests = [DraftRequest(slot, prompt, length, uniforms[slot]) for slot, prompt in prompts.items()]
        for one, other in zip(first.draft(requests), second.draft(requests), strict=True):
            assert one.tokens == other.tokens
            assert (one.q is None) == (other.q is None) == (not sampling.temperature)
            if one.q is not None:
                np.testing.assert_allclose(np.asarray(one.q), np.asarray(other.q), atol=1e-12)
        for prompt in prompts.values():
            prompt += [dice.randrange(VOCABULARY), dice.randrange(VOCABULARY)]  # what was verified is something else


@pytest.mark.parametrize("name", ["speculative", "pearl", "saguaro", "hedged", "elastic"])
def test_greedy_decoding_is_that_of_the_target_on_every_lane(staged_pair: Pair, name: str) -> None:
    strategy = create(name) if name == "elastic" else create(name, draft_length=4)
    for prompt in ([1, 2, 3], [5]):
        found = decode(staged_pair, strategy, prompt, max_new_tokens=14, temperature=0, eos=())
        assert found.tokens == greedy_tokens(staged_pair.target, prompt, 14)
        assert not found.statistics.draft_failure
        assert found.statistics.drafted_tokens


def test_sampled_decoding_is_that_of_the_pair_without_the_small_model(staged_pair: Pair, target: Any, draft: Any) -> None:
    two = Pair(target, draft, lane="inline")
    for name in ("speculative", "pearl", "saguaro"):
        for rule in ("token", "block"):
            options: dict[str, Any] = {"temperature": 1, "seed": 3, "max_new_tokens": 16, "eos": (), "verification": rule}
            strategy = create(name, draft_length=4)
            assert decode(staged_pair, strategy, [1, 2], **options).tokens == decode(two, strategy, [1, 2], **options).tokens
    stopping = create("speculative", draft_length=Confident(5, 0.4))
    for temperature in (0, 1):
        options = {"temperature": temperature, "seed": 3, "max_new_tokens": 16, "eos": ()}
        assert decode(staged_pair, stopping, [1, 2], **options).tokens == decode(two, stopping, [1, 2], **options).tokens


def test_a_batch_gives_what_each_decode_gives_alone(target: Any, draft: Any, small: Any) -> None:
    pair = Pair(target, draft, lane="inline", small_draft=small)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2]]
    options: dict[str, Any] = {"temperature": 1, "max_new_tokens": 12, "eos": ()}
    strategy = create("pearl", draft_length=3)
    together = decode(pair, strategy, prompts, batch_size=3, seed=5, **options)
    alone = [decode(pair, strategy, prompt, seed=5 + number, **options) for number, prompt in enumerate(prompts)]
    assert [found.tokens for found in together] == [found.tokens for found in alone]


def test_models_that_know_fewer_tokens_or_hold_fewer(target: Any) -> None:
    """The middle model knows 9 of 12 tokens, and the small one all; the small one holds 12 tokens of context."""
    middle = model("llama", 9, seed=1)
    small = model("llama", VOCABULARY, seed=1, max_position_embeddings=12)
    pair = Pair(target, middle, lane="inline", small_draft=small)
    for temperature in (0, 1):
        options: dict[str, Any] = {"temperature": temperature, "seed": 1, "max_new_tokens": 24, "eos": ()}
        found = decode(pair, create("speculative", draft_length=4), [11, 2, 3], **options)
        two = decode(Pair(target, middle, lane="inline"), create("speculative", draft_length=4), [11, 2, 3], **options)
        assert found.tokens == two.tokens
        assert not found.statistics.draft_failure


def test_a_changed_small_model_is_seen(target: Any, draft: Any, small: Any) -> None:
    pair = Pair(target, draft, lane="thread", small_draft=small)
    before = pair.draft_lane()
    with torch.no_grad():
        next(small.parameters()).mul_(1.0)
    pair.refresh(draft=True)
    assert pair.draft_lane() is not before
    pair.close()


def test_a_small_model_that_fails_loses_no_token(target: Any, draft: Any, small: Any) -> None:
    failing = copy.deepcopy(small)
    pair = Pair(target, draft, lane="inline", small_draft=failing)
    with torch.no_grad():
        failing.lm_head.weight.fill_(torch.nan)
    found = decode(pair, create("speculative", draft_length=4), [1, 2, 3], max_new_tokens=12, temperature=0, eos=())
    assert found.tokens == greedy_tokens(target, [1, 2, 3], 12)
    assert found.statistics.drafted_tokens
    assert not found.statistics.draft_failure


def test_a_middle_model_that_fails_is_named_and_loses_no_token(target: Any, draft: Any, small: Any) -> None:
    failing = copy.deepcopy(draft)
    pair = Pair(target, failing, lane="inline", small_draft=small)
    with torch.no_grad():
        failing.lm_head.weight.fill_(torch.nan)
    with pytest.warns(RuntimeWarning, match="NaN"):
        found = decode(pair, create("speculative", draft_length=4), [1, 2, 3], max_new_tokens=12, temperature=0, eos=())
    assert found.tokens == greedy_tokens(target, [1, 2, 3], 12)
    assert "NaN" in found.statistics.draft_failure


def test_what_cannot_be_staged_is_refused(target: Any, draft: Any, small: Any) -> None:
    with pytest.raises(InputError, match="small_draft drafts for a draft, and there is none"):
        Pair(target, small_draft=small)
    with pytest.raises(InputError, match="small_draft_length 7 has no use without a small_draft"):
        Pair(target, draft, small_draft_length=7)
    with pytest.raises(InputError, match="small_draft_length 0"):
        Pair(target, draft, small_draft=small, small_draft_length=0)
    with pytest.raises(InputError, match="small_draft layers:1 drafts for a draft"):
        Pair.load("shape:tiny-target", small_draft="layers:1")
    with pytest.raises(PairError, match="unknown shape"):
        Pair.load("shape:tiny-target", "shape:tiny-target", small_draft="shape:none", device="cpu")


def test_a_third_model_is_loaded() -> None:
    with Pair.load("shape:tiny-target", "shape:tiny-target", small_draft="layers:1", device="cpu", lane="inline") as pair:
        assert pair.small_draft is not None
        assert pair.small_draft.config.num_hidden_layers == 1
    with Pair.load(
        "shape:tiny-target", "shape:tiny-target", small_draft="shape:tiny-draft", device="cpu", lane="inline"
    ) as pair:
        assert pair.small_draft is not None
        assert pair.small_draft.dtype == pair.target.dtype
