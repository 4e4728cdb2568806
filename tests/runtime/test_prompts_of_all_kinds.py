"""What a prompt may be: texts, token ids as people have them, and conversations; everything else is refused by its kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from chat_models import PARTS, STRICT, TEXT, chat_pair, chat_tokenizer
from transformers import BatchEncoding

import specdec
from specdec import Batch, Decoding, InputError, Pair, decode
from specdec.testing.models import byte_tokenizer
from specdec.text import prompt_tokens

OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0, "seed": 0}
TALK = [{"role": "user", "content": "w7 w8"}]
LONG_TALK = [
    {"role": "system", "content": "w1"},
    {"role": "user", "content": "w2 w3"},
    {"role": "assistant", "content": "w4"},
    {"role": "user", "content": "w5 w6"},
]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return chat_pair(TEXT)


def templated(pair: Pair, messages: Any, **options: Any) -> tuple[int, ...]:
    """What transformers makes of messages."""
    assert pair.tokenizer is not None
    given = {"add_generation_prompt": True, "return_dict": False, **options}
    return tuple(pair.tokenizer.apply_chat_template(messages, **given))  # type: ignore[arg-type]


# --- token ids -------------------------------------------------------------------------------------------------------

IDS = [9, 10, 11]


def without_addresses(value: object) -> str:
    """The name of a case, the same in every process that collects it."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(
    "prompt",
    [
        tuple(IDS),
        range(9, 12),
        [np.int64(9), np.uint8(10), torch.tensor(11)],
        torch.tensor(IDS),
        torch.tensor([IDS], dtype=torch.int32),
        np.array(IDS, dtype=np.uint16),
        np.array([IDS]),
        {"input_ids": IDS},
        {"input_ids": [IDS], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]},
        {"input_ids": torch.tensor([[0, 0, *IDS]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])},
        {"input_ids": [torch.tensor(IDS)], "attention_mask": None, "length": [3]},
        BatchEncoding({"input_ids": IDS, "attention_mask": [1, 1, 1]}),
    ],
    ids=without_addresses,
)
def test_token_ids_of_all_kinds(pair: Pair, prompt: Any) -> None:
    assert prompt_tokens(pair, prompt) == tuple(IDS)
    assert decode(pair, specdec.create("speculative"), prompt, **OPTIONS).tokens == (
        decode(pair, specdec.create("autoregressive"), IDS, **OPTIONS).tokens
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (b"w1", r"type bytes: give text, as prompt.decode"),
        (bytearray(b"w1"), "type bytearray"),
        (memoryview(b"w1"), "type memoryview"),
        (5, "type int: give text, token ids or a list of messages"),
        (None, "type NoneType"),
        ({1, 2}, "type set"),
        (iter([1]), "type list_iterator"),
        ([1, 2.0], r"holds 2.0 of type float: token ids are integers"),
        ([True, 1], "holds True of type bool"),
        ([np.bool_(True)], "of type bool"),
        ([1, None], "holds None"),
        (["1", "2"], "list with the text '1', and decode takes one prompt: give a batch_size"),
        ([1, "w1"], "list with the text 'w1'"),
        ([IDS, IDS], r"holds rows \(list\), and decode takes one prompt"),
        ([torch.tensor(IDS)], r"holds rows \(Tensor\)"),
        ([], "is empty"),
        (torch.tensor([1.0]), "of torch.float32: token ids are integers"),
        (torch.tensor([True]), "of torch.bool"),
        (np.array([1.5]), "of float64"),
        (torch.tensor(3), "has 0 dimensions"),
        (torch.zeros(1, 1, 2, dtype=torch.long), "has 3 dimensions"),
        (torch.tensor([IDS, IDS]), "has 2 rows, and decode takes one prompt"),
        ({"input_ids": [IDS, IDS]}, "has 2 rows"),
        ({"input_ids": [["a"]]}, "list with the text 'a'"),
        ({"input_ids": 5}, "token ids of type int"),
        ({"input_ids": []}, "is empty"),
        ({"input_ids": IDS, "attention_mask": [0, 0, 0]}, "is empty"),
        ({"input_ids": IDS, "attention_mask": [1, 1, 0]}, "not padding on the left"),
        ({"input_ids": IDS, "attention_mask": [1, 1]}, "different shapes"),
        ({"input_ids": IDS, "token_type_ids": [0, 1, 1]}, "'token_type_ids', which decode does not read"),
        ({"input_ids": IDS, "pixel_values": torch.zeros(1)}, "'pixel_values', which decode does not read"),
        ({"role": "user", "content": "w1"}, "put it into a list of messages"),
        ({"messages": TALK}, "mapping without 'input_ids'"),
        ("w1 \udce9", "bytes that are not UTF-8"),
    ],
    ids=without_addresses,
)
def test_other_kinds_are_refused_by_name(pair: Pair, prompt: Any, message: str) -> None:
    for call in (decode, Decoding):
        with pytest.raises(InputError, match=message) as caught:
            call(pair, specdec.create("speculative"), prompt, **OPTIONS)
        assert "\n" not in str(caught.value)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_takes_prompts_of_all_kinds_in_one_list(pair: Pair) -> None:
    prompts: list[Any] = ["w1 w2", IDS, TALK, torch.tensor([IDS]), {"input_ids": IDS}]
    strategy = specdec.create("speculative")
    results: Any = decode(pair, strategy, prompts, batch_size=2, **OPTIONS)
    assert [result.tokens for result in results] == [decode(pair, strategy, prompt, **OPTIONS).tokens for prompt in prompts]
    assert decode(pair, strategy, [], batch_size=2, **OPTIONS) == []


def test_a_batch_takes_a_padded_encoding(pair: Pair) -> None:
    assert pair.tokenizer is not None
    strategy = specdec.create("speculative")
    pair.tokenizer.pad_token, pair.tokenizer.padding_side = "<unk>", "left"
    texts = ["w1", "w2 w3 w4"]
    padded = pair.tokenizer(texts, padding=True, return_tensors="pt")
    assert padded["input_ids"][0, 0] == 0
    expected = [decode(pair, strategy, text, **OPTIONS).tokens for text in texts]
    results: Any = decode(pair, strategy, padded, batch_size=2, **OPTIONS)
    assert [result.tokens for result in results] == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("w1 w2", r"not str: write \[prompt\], or leave batch_size out"),
        (b"w1", "not bytes"),
        (IDS, r"this is one prompt: write \[prompt\]"),
        (TALK, "this is one prompt"),
        (TALK[0], "not dict"),
        (torch.tensor([IDS, IDS]), "not Tensor: give all that the tokenizer returned"),
        (iter(["w1"]), "not list_iterator: give a list"),
        (["w1", [1.5]], "holds 1.5"),
    ],
    ids=without_addresses,
)
def test_a_single_prompt_is_no_batch(pair: Pair, prompts: Any, message: str) -> None:
    for call in (decode, Batch):
        with pytest.raises(InputError, match=message):
            call(pair, specdec.create("speculative"), prompts, batch_size=8, **OPTIONS)


# --- texts that begin with a beginning of sequence -------------------------------------------------------------------


def doubled(whole: tuple[int, ...], bare: tuple[int, ...]) -> bool:
    """The mistake: what a tokenizer makes of a rendered template without care."""
    return whole == (1, *bare)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("text", ["<s> w1 w2", "<s>", "<s><s> w1", "w1 <s> w2", "w1", "</s> w1"])
def test_a_text_gets_one_beginning_of_sequence(text: str, begins: bool) -> None:
    pair = chat_pair(TEXT, begins=begins)
    assert pair.tokenizer is not None
    whole, bare = (tuple(pair.tokenizer(text, add_special_tokens=special)["input_ids"]) for special in (True, False))  # type: ignore[arg-type]
    assert prompt_tokens(pair, text) == (bare if text.startswith("<s>") else whole)
    assert doubled(whole, bare) == begins


def test_white_space_is_a_prompt_where_the_tokenizer_has_tokens_for_it() -> None:
    by_bytes: Any = SimpleNamespace(tokenizer=byte_tokenizer(["Ċ", "Ġ"]), vocabulary=2)
    assert prompt_tokens(by_bytes, "\n") == (0,)
    assert prompt_tokens(by_bytes, " \n") == (1, 0)
    with pytest.raises(InputError, match="the prompt is empty: give at least one word"):
        prompt_tokens(by_bytes, "")


def test_a_rendered_template_is_what_the_template_gives(pair: Pair) -> None:
    assert pair.tokenizer is not None
    text = str(pair.tokenizer.apply_chat_template(LONG_TALK, tokenize=False, add_generation_prompt=True))  # type: ignore[arg-type]
    assert prompt_tokens(pair, text) == templated(pair, LONG_TALK) == prompt_tokens(pair, LONG_TALK)
    assert prompt_tokens(pair, LONG_TALK)[:2] == (1, 4)


# --- conversations ---------------------------------------------------------------------------------------------------


def in_parts(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


@pytest.mark.parametrize("messages", [TALK, LONG_TALK], ids=["one message", "four messages"])
@pytest.mark.parametrize(("template", "form"), [(TEXT, list), (PARTS, in_parts)], ids=["of texts", "of parts"])
def test_a_conversation_is_what_apply_chat_template_gives(
    template: str, form: Callable[[Any], Any], messages: list[dict[str, str]]
) -> None:
    """In either form of the contents, though each template reads only one of them and says nothing of the other."""
    pair = chat_pair(template)
    right = templated(pair, form(messages))
    assert 5 in right
    for given in (messages, tuple(messages), in_parts(messages), [*in_parts(messages)[:-1], messages[-1]]):
        assert prompt_tokens(pair, given) == right
    other = templated(pair, in_parts(messages) if form is list else messages)
    assert other != right


def test_a_conversation_is_decoded_as_generate_would(pair: Pair) -> None:
    ids = torch.tensor([templated(pair, LONG_TALK)])
    target: Any = pair.target
    output = target.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5, pad_token_id=0, eos_token_id=None
    )
    tokens = decode(pair, specdec.create("pearl", draft_length=2), LONG_TALK, eos=(), **OPTIONS).tokens
    assert list(tokens) == output[0, ids.shape[1] :].tolist()


def test_what_the_assistant_began_is_continued(pair: Pair) -> None:
    begun = [*TALK, {"role": "assistant", "content": "w9"}]
    assert prompt_tokens(pair, begun) == templated(pair, begun, add_generation_prompt=False, continue_final_message=True)
    assert prompt_tokens(pair, begun)[-1] == 15


def test_text_parts_are_lines_where_the_template_reads_texts() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "w1"}, {"type": "text", "text": "w2"}]}]
    pair = chat_pair(TEXT)
    assert prompt_tokens(pair, parts) == templated(pair, [{"role": "user", "content": "w1\nw2"}])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": [{"type": "image", "url": "x.png"}]}], r"\(message 1\) has a part of type 'image'"),
        ([*TALK, {"role": "user", "content": [{"type": "image_url"}]}], r"\(message 2\) has a part of type 'image_url'"),
        ([{"role": "user", "content": ["w1"]}], "a part without a type"),
        ([{"role": "user", "content": 5}], "content of type int"),
        ([{"role": "user"}], "has no content"),
        ([{"role": "user", "content": "  "}], "is blank"),
        ([{"role": "user", "content": "\udce9"}], "not UTF-8"),
        ([{"content": "w1"}], "has no role"),
        ([{"input_ids": IDS}], "has no role"),
        ([*TALK, "w1"], r"\(message 2\) has no role"),
    ],
    ids=without_addresses,
)
def test_messages_that_are_none_are_refused_by_number(pair: Pair, messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompt_tokens(pair, messages)


def test_a_template_that_refuses_is_quoted_in_one_line() -> None:
    pair = chat_pair(STRICT)
    assert prompt_tokens(pair, TALK) == (3, 13, 14)
    assert prompt_tokens(pair, in_parts(TALK)) == (3, 13, 14)
    with pytest.raises(InputError, match=r"the chat template refuses these messages \(the user begins\): change") as caught:
        prompt_tokens(pair, LONG_TALK)
    assert "\n" not in str(caught.value)


def test_a_template_may_change_a_message() -> None:
    """As transformers does, if the template reads the contents as they are, and fails for those in another form."""
    pair = chat_pair("{% for m in messages %}{{ ('<|user|> ' + m['content']) | replace('w7', 'w9') }}{% endfor %}")
    assert prompt_tokens(pair, TALK) == templated(pair, TALK) == (3, 15, 14)


def test_messages_need_a_template_and_a_tokenizer(greedy_pair: Pair) -> None:
    with pytest.raises(InputError, match="has no chat template, which messages need: give the prompt as text, or set"):
        decode(chat_pair(None), specdec.create("speculative"), TALK, **OPTIONS)
    with pytest.raises(InputError, match="no tokenizer"):
        decode(greedy_pair, specdec.create("speculative"), TALK, **OPTIONS)
    several = chat_tokenizer(None)
    several.chat_template = {"default": TEXT, "tool_use": STRICT}  # type: ignore[assignment]
    pair = Pair(greedy_pair.target, tokenizer=None)
    pair.tokenizer = several
    assert prompt_tokens(pair, [{"role": "user", "content": "w0"}]) == (1, 3, 6, 5)
