"""`Tokens` are the tuple of their ids, however they were made, and no value changes another."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from untouched import Untouched

from specdec import Committed, StrategyError
from specdec.ending import Ending, TimeLimit
from specdec.tokens import LONGEST_TAIL, Tokens, common_prefix

IDS = st.lists(st.integers(0, 2), max_size=6).map(tuple)
ENDS = st.none() | st.integers(-14, 14)
SLICES = st.builds(slice, ENDS, ENDS, st.sampled_from([None, 1, 2, -1]))


@given(IDS, IDS, SLICES, st.integers(0, 12), IDS)
@example((1, 2), (3, 4), slice(0, 1), 1, ())
def test_tokens_are_the_tuple_of_their_ids(head: Any, tail: Any, part: slice, count: int, more: Any) -> None:
    text, ids = Tokens(head, tail), head + tail
    assert (len(text), tuple(text), text[:], text[part]) == (len(ids), ids, ids, ids[part])
    assert [text[at] for at in range(-len(ids), len(ids))] == [ids[at] for at in range(-len(ids), len(ids))]
    for outside in (len(ids), -len(ids) - 1):
        with pytest.raises(IndexError):
            text[outside]
    assert (text + more)[:] == (text + list(more))[:] == text.grown(more)[:] == ids + more
    assert text.first(count)[:] == ids[:count]
    assert text.divided(min(count, len(ids))) == text == Tokens.of(ids)
    assert len(text.divided(min(count, len(ids))).head) == min(count, len(ids))
    assert hash(text) == hash(Tokens.of(ids))
    assert (text == Tokens(more)) == (ids == more)
    assert text[:] == ids


@given(IDS, st.integers(0, 6), IDS, IDS, st.booleans())
def test_common_prefix_is_how_many_leading_tokens_are_equal(whole: Any, cut: int, left: Any, right: Any, shared: bool) -> None:
    """Of texts that share a head, and of those whose heads differ."""
    expected = 0
    while expected < min(len(whole + left), len(whole + right)) and (whole + left)[expected] == (whole + right)[expected]:
        expected += 1
    head = Tokens(whole[:cut], whole[cut:])
    held = head + left
    wanted = head + right if shared else Tokens.of(whole + right)
    assert common_prefix(held, wanted) == common_prefix(wanted, held) == expected >= len(whole)


def test_a_round_reads_none_of_a_long_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loop does with a text, and what stops with a `reach` look at."""
    seen: list[Any] = []

    class Last:
        reach = 2

        def __call__(self, tokens: tuple[int, ...]) -> str | None:
            return seen.append(tokens)

    monkeypatch.setattr(Untouched, "guarded", True)
    before = Committed(Tokens(Untouched(range(9)), (4, 5)))
    after = before + Committed((6, 7))
    assert Ending(100, eos=(1,), stops=(Last(), TimeLimit(9.0))).cut(before, after, 0) == ((6, 7), None)
    assert seen == [(5, 6), (6, 7)]
    for changed in (Committed(Tokens(before.text.head, (4, 6, 7))), before):
        with pytest.raises(StrategyError, match="change none of it"):
            Ending(100).cut(before, changed, 0)
    assert common_prefix(before.text.grown([1]), after.text.first(11).grown((1, 2))) == 12
    assert after.text.first(10) == before.text.first(10) != after.text
    with pytest.raises(AssertionError, match="was read"):
        _ = before.tokens  # the control: this reads all of it


def test_a_text_that_grows_is_copied_once_in_many_rounds() -> None:
    text, heads = Committed(range(1000)), list[Any]()
    for number in range(3 * LONGEST_TAIL):
        text = text + Committed((number,))
        assert len(text.text.tail) <= LONGEST_TAIL + 1
        if not heads or text.text.head is not heads[-1]:
            heads.append(text.text.head)
    assert text.tokens == (*range(1000), *range(3 * LONGEST_TAIL))
    assert 3 <= len(heads) <= 4


def test_texts_that_go_on_from_one_text_do_not_change_each_other() -> None:
    start = Committed(range(2 * LONGEST_TAIL))
    left, right = start + Committed((1, 2)), start + Committed((3,))
    again = left + Committed((4,))
    assert left.tokens[-3:] == (2 * LONGEST_TAIL - 1, 1, 2)
    assert right.tokens[-2:] == (2 * LONGEST_TAIL - 1, 3)
    assert again.tokens == (*start, 1, 2, 4)
    for value, name in ((start, "text"), (start.text, "head")):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(value, name, ())


def test_committed_tokens_are_equal_by_their_ids() -> None:
    one, other = Committed((1, 2)) + Committed((3,)), Committed(Tokens((1,), (2, 3)))
    assert one == other == Committed([1, 2, 3])
    assert hash(one) == hash(other)
    assert one != Committed((1, 2))
    assert repr(one) == "Committed(tokens=(1, 2, 3))"
