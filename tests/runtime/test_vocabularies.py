"""A draft that knows fewer tokens than its target, or holds a shorter context, changes no output."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from decodes import inline, strategies
from tiny_models import Beyond, minuscule

from specdec import DecodingStrategy, InputError, Pair, PairError, Sampling, create, decode
from specdec.loading import require_equal_tokenizers
from specdec.measure import measure_acceptance, profile
from specdec.runtime.messages import DraftRequest
from specdec.runtime.timing import CONTEXT_TOKENS, SHORTEST_CONTEXT, timing_context
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler
from specdec.testing.models import byte_tokenizer, fresh_logits, greedy_tokens, model

WHOLE, SMALL = 16, 12
"""Tokens of the target, and of the draft."""

DRAFTING = [create("speculative", draft_length=3), create("pearl", draft_length=3)]


@pytest.fixture(scope="module")
def target() -> Any:
    """It says tokens that the draft lacks about as often as others."""
    made = model("llama", WHOLE, seed=1)
    with torch.no_grad():
        made.get_output_embeddings().weight[SMALL:] *= 3
    return made


@pytest.fixture(scope="module")
def draft(target: Any) -> Any:
    """The target without its last tokens."""
    made, weights = model("llama", SMALL, seed=1), target.state_dict()
    made.load_state_dict({name: weights[name][: len(own)] for name, own in made.state_dict().items()})
    return made


@pytest.fixture(scope="module", params=["inline", "thread", "process"])
def pair(request: pytest.FixtureRequest, target: Any, draft: Any) -> Iterator[Pair]:
    with Pair(target, draft, lane=request.param) as made:
        yield made


def test_greedy_outputs_are_the_targets_own(pair: Pair) -> None:
    prompt = [3, SMALL, 5, WHOLE - 1]
    expected = greedy_tokens(pair.target, prompt, 24)
    assert max(expected) >= SMALL > min(expected)
    for strategy in strategies(3):
        found = decode(pair, strategy, prompt, max_new_tokens=24, temperature=0)
        assert found.tokens == expected, strategy
        assert found.statistics.accepted_tokens or found.statistics.foreseen_outcomes or not strategy.drafts


OPTIONS = [{}, {"top_k": 3}, {"repetition_penalty": 1.5, "temperature": 0.7}, {"logits_processor": [Beyond(SMALL - 2)]}]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_rows_are_as_wide_as_the_targets_and_0_where_the_draft_has_no_token(pair: Pair, options: dict[str, Any]) -> None:
    """Their other entries are the draft's own law, with a context that the draft can only read in part."""
    lane, sampling, context = pair.draft_lane(), Sampling(**options), [1, WHOLE - 1, 2]
    assert lane is not None
    lane.submit("begin", sampling, context)()
    [drafting] = lane.submit("draft", [DraftRequest(0, context, 3, [0.3, 0.9, 0.6])])()
    q = torch.as_tensor(drafting.q)
    assert q.shape == (3, WHOLE)
    assert not q[:, SMALL:].any()
    own = fresh_logits(pair.draft, [1, 0, 2, *drafting.tokens[:2]], 3)
    wide = torch.nn.functional.pad(own, (0, WHOLE - SMALL), value=-torch.inf)
    expected = Sampler(sampling).probabilities(wide, [*context, *drafting.tokens[:2]])
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "options"),
    [*zip(["token", "match", "block", "block"], OPTIONS, strict=True)],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_rule_takes_such_rows(pair: Pair, rule: str, options: dict[str, Any]) -> None:
    options = {"temperature": 1, **options}
    for strategy in DRAFTING:
        found = decode(pair, strategy, [1, 13], max_new_tokens=30, seed=3, verification=rule, **options)
        assert max(found.tokens) >= SMALL
        assert found.statistics.accepted_tokens
    forced = decode(pair, DRAFTING[0], [1], max_new_tokens=8, verification="synthetic:0.8", seed=1, **options)
    assert len(forced.tokens) == 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_without_a_token_to_propose_is_not_lost(pair: Pair, temperature: float) -> None:
    """Warnings are errors here."""
    options: dict[str, Any] = {"logits_processor": [Beyond(SMALL)], "temperature": temperature, "seed": 2, "max_new_tokens": 9}
    for strategy in DRAFTING:
        found = decode(pair, strategy, [1, 2], **options)
        assert min(found.tokens) >= SMALL
        assert (found.statistics.drafted_tokens, found.statistics.draft_failure) == (0, "")


def test_whole_drafts_on_a_device_are_widened_too(draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`GraphRunner.draft` answers rows over the tokens that the model has."""
    worker = Worker(draft, WHOLE)
    rows = torch.full((2, SMALL), 1 / SMALL)
    asked: list[Any] = []
    monkeypatch.setattr(worker._runner, "draft", lambda *arguments: asked.append(arguments) or ([4, 5], rows))
    [drafting] = worker.draft([DraftRequest(0, [WHOLE - 1, 3], 2, [0.1, 0.2])])
    assert asked[0][1] == [0, 3]
    assert drafting.q is not None
    assert torch.equal(drafting.q, torch.nn.functional.pad(rows, (0, WHOLE - SMALL)))


def test_acceptance_is_measured_where_heads_differ(target: Any, draft: Any) -> None:
    """sum min(p, q): whatever the target gives to tokens that the draft lacks is lost."""
    pair, prompt = inline(target, draft), [1, 2, 3]
    found = measure_acceptance(pair, [prompt], new_tokens=1).rate
    p = fresh_logits(target, prompt)[0].softmax(-1)
    q = fresh_logits(draft, prompt)[0].softmax(-1)
    assert found == pytest.approx(float(torch.minimum(p[:SMALL], q).sum()))
    assert measure_acceptance(pair, [[1]], new_tokens=30, temperature=0).rate < 1


# --- contexts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("strategy", strategies(1, 4), ids=str)
def test_a_short_context_of_the_draft_bounds_drafts_alone(architecture: str, strategy: DecodingStrategy) -> None:
    """Learned positions (GPT-2) cannot be asked for beyond the end. Warnings are errors here."""
    target = model("llama", 12, seed=1)
    pair = inline(target, model(architecture, 12, seed=1, max_position_embeddings=9))
    assert (pair.context_limit, pair.draft_context_limit) == (target.config.max_position_embeddings, 9)
    prompts = [[(length + i) % 12 for i in range(length)] for length in (3, 7, 8, 9, 30)]
    expected = [greedy_tokens(target, prompt, 10) for prompt in prompts]
    alone = [decode(pair, strategy, prompt, max_new_tokens=10, temperature=0) for prompt in prompts]
    assert [result.tokens for result in alone] == expected
    batch = decode(pair, strategy, prompts, batch_size=3, max_new_tokens=10, temperature=0)
    assert [result.tokens for result in batch] == expected
    assert not any(result.statistics.draft_failure for result in (*alone, *batch))
    if strategy.drafts:
        drafted = [result.statistics.drafted_tokens for result in alone]
        assert drafted[0] > 0 == drafted[3] == drafted[4]


def test_strategies_that_draft_nothing_do_not_look_at_the_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    target = model("llama", 12, seed=1)
    pair = inline(target, model("gpt2", 12, max_position_embeddings=2))
    monkeypatch.setattr(pair, "draft_lane", None)
    for name in ("autoregressive", "prompt_lookup"):
        assert decode(pair, create(name), [1, 2, 3], max_new_tokens=9, temperature=0).tokens == greedy_tokens(
            target, [1, 2, 3], 9
        )


def test_steps_are_timed_in_short_contexts() -> None:
    assert timing_context(4 * CONTEXT_TOKENS) == CONTEXT_TOKENS
    assert timing_context(64) == 32
    short, shorter = (
        minuscule(16, seed=3, max_position_embeddings=limit) for limit in (SHORTEST_CONTEXT, SHORTEST_CONTEXT - 1)
    )
    with inline(minuscule(16, seed=3), short) as pair:
        assert profile(pair, {}, widths=(1,), batches=(), contexts=(64,), repeats=1).target_seconds[0].context == 6
    with inline(minuscule(16, seed=3), shorter) as pair, pytest.raises(InputError, match="models hold 19 tokens, too few"):
        profile(pair, {}, widths=(1,), batches=(), repeats=1)


# --- tokenizers ------------------------------------------------------------------------------------------------------

WORDS = ["a", "b", "c", "d", "e"]


def tokenizer(words: list[str], *added: str) -> Any:
    made = byte_tokenizer(words)
    made.add_tokens(list(added), special_tokens=True)
    return made


SAME = tokenizer(WORDS, "<end>")
DIFFERENT = {
    "tail of the target": (tokenizer(WORDS, "<end>", "<think>", "</think>"), SAME, "only the target has '<think>' and 1 more"),
    "tail of the draft": (SAME, tokenizer(WORDS, "<end>", "<pad>"), "only the draft has '<pad>'"),
    "renamed": (tokenizer(WORDS, "<stop>"), SAME, "token 5 is '<stop>' in the target and '<end>' in the draft"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_tokenizers_that_agree_on_ordinary_tokens_are_accepted_with_a_word(case: str) -> None:
    target, draft, word = DIFFERENT[case]
    with pytest.warns(RuntimeWarning, match=word) as said:
        require_equal_tokenizers(target, draft, "large", "small")
    assert len(said) == 1
    message = str(said[0].message)
    assert message.startswith("the tokenizers of large and small differ (")
    assert "output stays the target's" in message


def test_equal_tokenizers_are_accepted_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_equal_tokenizers(SAME, tokenizer(WORDS, "<end>"), "large", "small")


@pytest.mark.parametrize(
    "other",
    [tokenizer(WORDS[::-1], "<end>"), tokenizer(["a", "b", "d", "e", "c"], "<end>"), tokenizer(WORDS[:4], "f", "<end>")],
    ids=["reversed", "moved", "ordinary here, added there"],
)
def test_ordinary_tokens_with_other_numbers_are_refused(other: Any) -> None:
    with pytest.raises(PairError, match="small has another tokenizer than large") as refused:
        require_equal_tokenizers(SAME, other, "large", "small")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_may_have_more_tokens_than_the_head(target: Any) -> None:
    words = [*"abcdefghijklmno", "Ġ"]
    padded = tokenizer(words, "<pad>")
    for pair in (Pair(target, tokenizer=padded), inline(target, minuscule(WHOLE, seed=1), tokenizer=padded)):
        found = decode(pair, create("autoregressive"), "a b", max_new_tokens=5, temperature=0)
        assert found.tokens == greedy_tokens(target, padded("a b")["input_ids"], 5)


def test_a_pair_of_folders_says_how_its_tokenizers_differ(target: Any, draft: Any, tmp_path: Path) -> None:
    words = [*"abcdefghijkl"]
    for name, of, added in (("target", target, ("<1>", "<2>", "<3>", "<4>")), ("draft", draft, ())):
        of.save_pretrained(tmp_path / name)
        tokenizer(words, *added).save_pretrained(tmp_path / name)
    with pytest.warns(RuntimeWarning, match="only the target has '<1>' and 3 more"):
        pair = Pair.load(tmp_path / "target", tmp_path / "draft", lane="inline")
    assert (pair.vocabulary, pair.tokenizer is not None) == (WHOLE, True)
