"""A draft of another family changes no output, and declares the rows that it samples from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from decodes import strategies
from families import both, bytes_tokenizer, spaces_tokenizer, tiny_tokenizer
from tiny_models import minuscule

from specdec import InputError, Pair, PairError, Sampling, StrategyError, create, decode
from specdec.bench.peers import hugging_face
from specdec.cli.options import ModelOptions
from specdec.measure import measure_acceptance
from specdec.runtime.messages import Drafting, DraftRequest, ForkRequest
from specdec.runtime.vocabulary import head_size
from specdec.runtime.worker import NewWorker, Worker
from specdec.runtime.written import NewTextDrafter, TextDrafter
from specdec.sampling import Sampler
from specdec.summary import DescribedPair
from specdec.testing.models import fresh_logits, greedy_tokens, model, resembling
from specdec.vocabularies import LEAST_SHARE, Matching, match_tokenizers

TARGET, DRAFT = bytes_tokenizer(), spaces_tokenizer()
SIZES = len(TARGET), len(DRAFT)
PROMPT = tuple(TARGET("a b: é")["input_ids"])
FORKING = ("saguaro", "hedged")


@pytest.fixture(scope="module")
def target() -> Any:
    return model("llama", SIZES[0], seed=1)


@pytest.fixture(scope="module")
def draft(target: Any) -> Any:
    """The target's own layers, with its embedding where tokens are common: it often agrees."""
    made, state = model("llama", SIZES[1], seed=2), resembling(target, 0.02).state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = made.state_dict()[name].clone()
        for token, own in both(TARGET, DRAFT).common.items():
            rows[own] = state[name][token]
        state[name] = rows
    made.load_state_dict(state)
    return made


@pytest.fixture(scope="module", params=["inline", "thread", "process"])
def lane(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["common", "text"])
def pair(request: pytest.FixtureRequest, lane: str, target: Any, draft: Any) -> Iterator[Pair]:
    matching = match_tokenizers(TARGET, DRAFT, request.param)
    with Pair(target, draft, TARGET, lane=lane, matching=matching) as made:
        yield made


def drafting(pair: Pair, *lengths: int) -> list[Any]:
    """Strategies that the pair's draft can serve: forks need rows."""
    return [one for one in strategies(*lengths) if pair.matching.way == "common" or one.name not in FORKING]


def test_greedy_outputs_are_the_targets_own(pair: Pair) -> None:
    expected, accepted = greedy_tokens(pair.target, PROMPT, 16), 0
    for strategy in drafting(pair, 3):
        found = decode(pair, strategy, PROMPT, max_new_tokens=16, temperature=0)
        assert found.tokens == expected, strategy
        accepted += found.statistics.accepted_tokens if strategy.drafts else 0
    assert accepted


def test_a_seed_gives_the_same_tokens_in_every_lane_and_batch(pair: Pair, target: Any, draft: Any) -> None:
    prompts = [PROMPT, PROMPT[:2], (*PROMPT, 5, 9)]
    options: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1, "seed": 3}
    with Pair(target, draft, TARGET, lane="inline", matching=pair.matching) as inline:
        for strategy in (create("speculative", draft_length=3), create("pearl", draft_length=3)):
            alone = [decode(inline, strategy, prompt, **options).tokens for prompt in prompts]
            assert decode(pair, strategy, PROMPT, **options).tokens == alone[0]
            batch = decode(pair, strategy, prompts, batch_size=3, **{**options, "temperature": 0})
            assert [one.tokens for one in batch] == [greedy_tokens(target, prompt, 10) for prompt in prompts]


@pytest.mark.parametrize("verification", ["token", "block", "match"])
def test_every_rule_takes_such_drafts(pair: Pair, verification: str) -> None:
    found = decode(
        pair, create("speculative", draft_length=4), PROMPT, max_new_tokens=40, verification=verification, temperature=1, seed=1
    )
    assert len(found.tokens) == 40
    assert found.statistics.accepted_tokens or pair.matching.way == "text"  # a sampled token is seldom the likeliest text
    assert found.statistics.drafted_tokens <= 4 * found.statistics.rounds  # each is counted once


def test_a_short_context_of_the_draft_bounds_nothing(lane: str, target: Any) -> None:
    if lane != "inline":
        pytest.skip("one lane is enough")
    short = model("llama", SIZES[1], seed=2, max_position_embeddings=24)
    prompt, expected = PROMPT * 6, greedy_tokens(target, PROMPT * 6, 12)
    for way in ("common", "text"):
        pair = Pair(target, short, TARGET, lane="inline", matching=match_tokenizers(TARGET, DRAFT, way))
        found = decode(pair, create("speculative", draft_length=5), prompt, max_new_tokens=12, temperature=0)
        assert found.tokens == expected
        assert found.statistics.drafted_tokens


# --- common tokens ---------------------------------------------------------------------------------------------------

TINY = both(
    tiny_tokenizer(["a", "b", "ab", "c"], ("a", "b")), tiny_tokenizer(["ba", "b", "aa", "a", "d"], ("b", "a"), ("a", "a"))
)
COMMON = {0: 3, 1: 1}
"""The draft's token for each common one of the target's; the draft reads `ab` as its 3, 1 and `aba` as its 3, 0."""


def restricted(of: Any, own: list[int], context: list[int], sampling: Sampling) -> torch.Tensor:
    """The row that must be declared: softmax over the common tokens alone, at the target's ids."""
    logits = torch.full((1, 4), -torch.inf, dtype=torch.float64)
    for token, other in COMMON.items():
        logits[0, token] = fresh_logits(of, own)[0, other]
    return Sampler(sampling).probabilities(logits, context)[0]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 1}, {"repetition_penalty": 1.8}], ids=str)
def test_declared_rows_are_the_sampled_ones_over_common_tokens(options: dict[str, Any]) -> None:
    """Over a grid of uniforms, frequencies are the declared rows, to a cell's width."""
    made, cells, sampling = minuscule(5, seed=3, initializer_range=0.4), 40, Sampling(**options)
    worker = Worker(made, 4, vocabularies=TINY)
    worker.begin(sampling, [2])
    expected = restricted(made, [3, 1], [2], sampling)
    counts: Counter[int] = Counter()
    for cell in range(cells):
        [found] = worker.draft([DraftRequest(0, [2], 2, [(cell + 0.5) / cells, 0.5])])
        counts[found.tokens[0]] += 1
        assert found.q is not None
        torch.testing.assert_close(found.q[0], expected, rtol=0, atol=1e-6)
        own = {0: [3, 0], 1: [3, 1, 1]}[found.tokens[0]]
        then = restricted(made, own, [2, found.tokens[0]], sampling)
        torch.testing.assert_close(found.q[1], then, rtol=0, atol=1e-6)
    assert all(abs(counts[token] / cells - expected[token]) <= 1 / cells for token in range(4))


def test_the_greedy_choice_is_made_among_common_tokens() -> None:
    """The likeliest of all is another one on some seeds."""
    elsewhere = 0
    for seed in range(6):
        made = minuscule(5, seed=seed)
        worker = Worker(made, 4, vocabularies=TINY)
        worker.begin(Sampling(temperature=0), [0])
        [found] = worker.draft([DraftRequest(0, [0], 1)])
        logits = fresh_logits(made, [3])[0]
        assert found.tokens == [max(COMMON, key=lambda token: logits[COMMON[token]])]
        elsewhere += int(logits.argmax()) not in COMMON.values()
    assert elsewhere


def test_windows_of_a_fork_are_read_prefix_by_prefix() -> None:
    """`a`, `ab`, `aba`: the last is one token for the draft where two were read before."""
    made = minuscule(5, seed=3, initializer_range=0.4)
    worker = Worker(made, 4, vocabularies=TINY)
    worker.begin(Sampling(), [2])
    [forking] = worker.fork([ForkRequest(0, (0, 1, 0), (1, 1, 1), 2, [0.5] * 6)])
    rows = [restricted(made, own, [], Sampling()) for own in ([3], [3, 1], [3, 0])]
    heads = [0, 1, int(rows[2].argmax())]  # behind `a` comes `b`, which is left out, and so on
    assert forking.outcomes == list(enumerate(heads))
    assert [len(tail) for tail in forking.tails] == [2, 2, 2]
    [branch] = worker.branch(0, forking.number, 0)
    assert branch.q is not None
    torch.testing.assert_close(branch.q[0], restricted(made, [2], [], Sampling()), rtol=0, atol=1e-6)


def test_a_draft_without_a_common_token_to_propose_is_not_lost(target: Any, draft: Any) -> None:
    """Warnings are errors here."""

    def others_only(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor(list(both(TARGET, DRAFT).common)), -torch.inf)

    pair = Pair(target, draft, TARGET, lane="inline", matching=match_tokenizers(TARGET, DRAFT, "common"))
    for temperature in (0.0, 1.0):
        options: dict[str, Any] = {"logits_processor": [others_only], "temperature": temperature, "seed": 2}
        found = decode(pair, create("speculative", draft_length=2), PROMPT, max_new_tokens=5, **options)
        assert (found.statistics.drafted_tokens, found.statistics.draft_failure) == (0, "")


def test_acceptance_is_measured_over_the_targets_tokens(target: Any, draft: Any) -> None:
    pair = Pair(target, draft, TARGET, lane="inline", matching=match_tokenizers(TARGET, DRAFT, "common"))
    found = measure_acceptance(pair, [PROMPT], new_tokens=3)
    assert found.positions == 3
    assert 0 < found.rate < 1


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_ends_where_the_draft_ends_it(draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = NewTextDrafter(NewWorker(draft, head_size(draft)), SIZES[0], both(TARGET, DRAFT))()
    own = [*DRAFT(" ab")["input_ids"][1:], 1, 7, 7]
    monkeypatch.setattr(drafter._worker, "draft", lambda *_: [Drafting(own, None, 0.1)])
    drafter.begin(Sampling(), PROMPT)
    [written] = drafter.draft([DraftRequest(0, PROMPT, 9)])
    assert written.certain
    assert TARGET.decode(written.tokens) == " ab<end>"
    [short] = drafter.draft([DraftRequest(0, PROMPT, 1)])
    assert short.tokens == written.tokens[:1]


def test_text_foresees_nothing(target: Any, draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.pair.speed_ratio", lambda *_, **__: 50.0)  # so forks that cost nothing would be chosen
    pair = Pair(target, draft, TARGET, lane="inline", matching=match_tokenizers(TARGET, DRAFT, "text"))
    assert isinstance(pair.draft_lane()._worker, TextDrafter)  # type: ignore[union-attr]
    with pytest.raises(StrategyError, match="take a strategy without forks, or draft common tokens"):
        decode(pair, create("saguaro", draft_length=2), PROMPT, max_new_tokens=5)
    chosen = decode(pair, create("adaptive", among="saguaro", first=0.99), PROMPT, max_new_tokens=5)
    assert len(chosen.tokens) == 5  # it takes what the draft can do
    with pytest.raises(InputError, match="one that writes text has none"):
        measure_acceptance(pair, [PROMPT], new_tokens=3)


# --- which way -------------------------------------------------------------------------------------------------------


def folder(path: Path, tokenizer: Any, size: int) -> Path:
    minuscule(size, seed=1).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_loading_chooses_and_says_so(tmp_path: Path) -> None:
    ours, theirs = folder(tmp_path / "target", TARGET, SIZES[0]), folder(tmp_path / "draft", DRAFT, SIZES[1])
    with pytest.warns(
        RuntimeWarning, match="has another tokenizer than .*: it drafts the tokens that both vocabularies have"
    ) as said:
        pair = Pair.load(ours, theirs, lane="inline")
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert (pair.matching.way, DescribedPair.of(pair).vocabularies) == ("common", "common")
    assert str(DescribedPair.of(pair)).endswith("drafts common tokens")
    text = Pair.load(ours, theirs, lane="inline", vocabularies="text")  # chosen, so nothing is said
    assert text.matching.way == "text"
    assert Pair.load(ours, ours, lane="inline").matching.way == "same"
    with pytest.raises(PairError, match=r"another tokenizer than .* or set vocabularies to 'auto'"):
        Pair.load(ours, theirs, vocabularies="same")
    with pytest.raises(InputError, match="for drafts with the target's own tokens"):
        hugging_face(pair)
    with pytest.raises(InputError, match="unknown vocabularies 'both': choose one of auto, same, common, text"):
        Pair.load(ours, theirs, vocabularies="both")
    with pytest.raises(InputError, match="needs a target and a draft that have tokenizers"):
        Pair.load(ours, vocabularies="text")


def test_few_common_tokens_mean_text() -> None:
    """A vocabulary of bytes has few of another's words."""
    few = bytes_tokenizer(257)
    with pytest.warns(RuntimeWarning, match=r"it drafts text, since \d+ % of the target's tokens in text are common"):
        found = match_tokenizers(bytes_tokenizer(1200, "<s>"), spaces_tokenizer(300))
    assert found.way == "text"
    assert found.share < LEAST_SHARE
    assert match_tokenizers(few, DRAFT, "common").share > LEAST_SHARE


def test_no_common_token_is_refused_by_name() -> None:
    ours, theirs = tiny_tokenizer(["a", "b"]), tiny_tokenizer(["c", "d"])
    with pytest.raises(PairError, match="small and large spell no token alike: let the draft write text"):
        match_tokenizers(ours, theirs, "common", "large", "small")
    with pytest.warns(RuntimeWarning, match="0 % of the target's"):
        assert match_tokenizers(ours, theirs).way == "text"


def test_the_same_ids_need_no_spelling() -> None:
    assert match_tokenizers(TARGET, TARGET) == Matching()


def test_the_command_line_has_the_option_and_swallows_none() -> None:
    with pytest.raises(InputError, match="--vocabularies text is for a draft of your own: give --draft too"):
        ModelOptions(vocabularies="text").check()
