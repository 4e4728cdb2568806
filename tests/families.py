"""Two small tokenizers of other families, trained here in milliseconds, and what tests of their pairs share."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from specdec.prompts import bundled
from specdec.runtime.spelling import spelling_of
from specdec.runtime.translation import Vocabularies


@cache
def bytes_tokenizer(size: int = 320, end: str = "<end>") -> Any:
    """A byte-level one, as GPT-2 and Llama 3 have."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained(made, trainers.BpeTrainer(vocab_size=size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end)


@cache
def spaces_tokenizer(size: int = 400, end: str = "</s>") -> Any:
    """One of characters, with `▁` for spaces, as Llama 2 has. It begins each text with `<s>`."""
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<s>", end, *(f"<0x{byte:02X}>" for byte in range(256))]
    trained(made, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=end)


def trained(made: Tokenizer, trainer: Any) -> None:
    made.train_from_iterator(bundled(), trainer)


def tiny_tokenizer(words: list[str], *merges: tuple[str, str]) -> Any:
    """A byte-level one whose ids are the places of `words`; no token ends a text."""
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def both(target: Any, draft: Any) -> Vocabularies:
    return Vocabularies(spelling_of(target, "target"), spelling_of(draft, "draft"))
