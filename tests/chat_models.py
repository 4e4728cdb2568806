"""A word tokenizer with chat templates of several kinds, for all tests of conversations."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from specdec import Pair
from specdec.testing.models import model, resembling

NAMES = ["<unk>", "<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>", *(f"w{i}" for i in range(26))]

TEXT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Reads contents that are texts, and prints a list as Python does."""

PARTS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% for part in m['content'] if part['type'] == 'text' %} {{ part['text'] }} w25{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Reads contents that are lists of parts, puts a word after each part, and prints nothing of a text."""

STRICT = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('the user begins') }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] }}{% endfor %}"
)
"""No beginning of sequence, no generation prompt, and no system."""


def chat_tokenizer(template: str | None, *, begins: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of words; `begins` says whether it puts a beginning of sequence before texts."""
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(NAMES)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|system|>", "<|assistant|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def chat_pair(template: str | None, *, begins: bool = True) -> Pair:
    target = model("llama", len(NAMES), seed=3)
    return Pair(target, resembling(target, 0.2), chat_tokenizer(template, begins=begins), lane="inline")
