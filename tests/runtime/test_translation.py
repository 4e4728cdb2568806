"""Texts between two vocabularies: what a draft reads, what it may propose, and what its text becomes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from families import both, bytes_tokenizer, spaces_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from specdec import PairError
from specdec.runtime.spelling import spelling_of
from specdec.runtime.translation import LONGEST_PIECE, PIECE, Reader, Vocabularies

FAMILIES = {
    "bytes, bytes": lambda: both(bytes_tokenizer(320), bytes_tokenizer(400)),
    "bytes, spaces": lambda: both(bytes_tokenizer(), spaces_tokenizer()),
    "spaces, bytes": lambda: both(spaces_tokenizer(), bytes_tokenizer()),
    "spaces, spaces": lambda: both(spaces_tokenizer(400), spaces_tokenizer(360)),
}
TEXT = "Once upon a time, naïve 你好 wrote:\n\ndef f(x):\n    return  x + 1\n" + " and a list of words that goes on" * 12
UNBROKEN = "dreimaldreimaldreimal" * 20


@pytest.fixture(params=FAMILIES)
def vocabularies(request: pytest.FixtureRequest) -> Vocabularies:
    return FAMILIES[request.param]()


def reader(vocabularies: Vocabularies, limit: int = 10_000) -> Reader:
    return Reader(vocabularies, limit, 10_000)


def spelt(vocabularies: Vocabularies, ids: list[int]) -> str:
    """What the draft's tokens say, with the special ones left out."""
    draft = vocabularies.draft
    text = b"".join(draft.tokens.get(token, b"") for token in ids).decode()
    return text.removeprefix(" ") if draft.adds_space else text


@pytest.mark.parametrize("text", [TEXT, UNBROKEN, "你好" * 60, "a"])
def test_the_draft_reads_the_same_text(vocabularies: Vocabularies, text: str) -> None:
    context = vocabularies.target.encoded(text.encode(), first=True)
    assert spelt(vocabularies, reader(vocabularies).read(0, context)) == text


def test_the_draft_reads_its_own_tokenization(vocabularies: Vocabularies) -> None:
    """Not that of the target, token by token."""
    context = vocabularies.target.encoded(TEXT.encode(), first=True)
    expected = vocabularies.draft.backend.encode(TEXT, add_special_tokens=True).ids
    assert reader(vocabularies).read(0, context) == expected


def test_what_is_read_depends_on_the_context_alone(vocabularies: Vocabularies) -> None:
    """After any roll-backs, in any slot, as if it were read for the first time."""
    source, used = random.Random(1), reader(vocabularies)
    words = vocabularies.target.encoded((TEXT + UNBROKEN).encode(), first=True)
    some = [*vocabularies.target.tokens, *vocabularies.target.special]
    context: list[int] = []
    for _ in range(150):
        keep, start = source.randint(max(0, len(context) - 70), len(context)), source.randrange(len(words))
        context = context[:keep] + words[start : start + source.randint(0, 60)] + source.choices(some, k=source.randint(0, 3))
        assert used.read(source.randrange(2), context) == reader(vocabularies).read(0, context)


def test_a_longer_context_changes_the_last_tokens_only(vocabularies: Vocabularies) -> None:
    """So the draft's cache is kept. A piece has at most `LONGEST_PIECE` tokens of the target's."""
    used, before = reader(vocabularies), [0]
    context = vocabularies.target.encoded((TEXT + UNBROKEN).encode(), first=True)
    for end in range(1, len(context) + 1):
        now = used.read(0, context[:end])
        equal = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
        assert len(before) - equal <= 8 * LONGEST_PIECE
        if end > PIECE and end < 100:
            assert equal > 0
        before = now


@pytest.mark.parametrize("end", range(1, 7))
def test_half_a_character_is_read_as_bytes(end: int) -> None:
    families = both(bytes_tokenizer(), spaces_tokenizer())
    data = "é你€".encode()[:end]
    context = [families.target.ids[bytes([byte])] for byte in data]
    ids = reader(families).read(0, context)
    assert b"".join(families.draft.tokens.get(token, b"") for token in ids) in (data, b" " + data)


def test_a_short_context_of_the_draft_holds_the_last_tokens(vocabularies: Vocabularies) -> None:
    short, whole = reader(vocabularies, 40), reader(vocabularies)
    context = vocabularies.target.encoded(TEXT.encode(), first=True)
    starts = set[int]()
    for end in range(1, len(context) + 1):
        own, expected = short.read(0, context[:end]), whole.read(0, context[:end])
        assert 20 <= len(own) <= 40 or own == expected
        assert expected[len(expected) - len(own) :] == own
        starts.add(len(expected) - len(own))
    assert all(start % 20 == 0 for start in starts)


def test_tokens_are_common_if_both_spell_them_alike(vocabularies: Vocabularies) -> None:
    target, draft, common = vocabularies.target, vocabularies.draft, vocabularies.common
    assert len(set(common.values())) == len(common) > 100
    ordinary = [(token, own) for token, own in common.items() if token in target.tokens]
    assert all(target.tokens[token] == draft.tokens[own] for token, own in ordinary)
    assert target.ends is not None
    assert common[target.ends] == draft.ends


def test_special_tokens_are_read_by_name_or_not_at_all() -> None:
    families = both(bytes_tokenizer(), spaces_tokenizer(end="<end>"))
    begins, ends = 0, 1
    space_a = families.draft.ids[b" a"]
    here = families.target.ids[b"a"]
    assert reader(families).read(0, [here, 0, here]) == [begins, space_a, ends, space_a]
    back = both(spaces_tokenizer(), bytes_tokenizer(end="<other>"))
    assert reader(back).read(0, [0, 1]) == [0]  # `<s>` has no name there, and the end of a text is the end
    assert reader(back).read(0, [0]) == [0]  # nothing is left, so something stands in


@pytest.mark.parametrize("at", range(1, 60, 7))
def test_text_becomes_the_tokens_that_the_target_would_read(vocabularies: Vocabularies, at: int) -> None:
    tokens = vocabularies.target.encoded(TEXT.encode(), first=True)
    rest = vocabularies.spelt(tokens[at : at + 9], first=False)
    assert vocabularies.continued(tokens[:at], rest) == tokens[at : at + 9]


def test_text_that_would_change_the_tokens_before_it_is_tokenized_alone() -> None:
    families = both(tiny_tokenizer(["a", "b", "ab"], ("a", "b")), tiny_tokenizer(["a", "b"]))
    assert families.continued([0], b"bab") == [1, 2]
    assert families.continued([1], b"") == []


def test_a_tokenizer_without_spelling_is_refused_by_name() -> None:
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    made: Any = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(PairError, match="tokens of bert have no spelling") as refused:
        spelling_of(made, "bert")
    assert "\n" not in str(refused.value)
