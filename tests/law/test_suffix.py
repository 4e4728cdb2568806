"""Suffix decoding: the index against counting by hand, and what the strategy guesses, keeps and refuses."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import specdec
from specdec import Committed, InputError, KnownFacts, Score, Scores, StrategyError, Verdict, create, decode
from specdec.suffixes import END, MOST_SUFFIXES, Automaton, TextIndex, corpus
from specdec.testing import greedy_tokens, tiny_pair

Tokens = tuple[int, ...]


# --- the index, against a count by hand ------------------------------------------------------------------------------


def followers(texts: Sequence[Tokens], context: Tokens) -> tuple[Counter[int], list[int]]:
    """How often each token follows `context`, and these tokens in order."""
    found = [
        text[at + len(context)]
        for text in texts
        for at in range(len(text) - len(context))
        if text[at : at + len(context)] == context
    ]
    return Counter(found), found


def path(texts: Sequence[Tokens], context: Tokens, length: int, least_chance: float) -> tuple[Tokens, float]:
    """The likeliest tokens after `context`, and how many are expected to be right."""
    tokens: Tokens = ()
    chance, expected = 1.0, 0.0
    while len(tokens) < length:
        counts, order = followers(texts, context + tokens)
        if not counts:
            break
        token = max(counts, key=lambda token: (counts[token], len(order) - order[::-1].index(token)))
        chance *= counts[token] / counts.total()
        if token == END or chance < least_chance:
            break
        tokens, expected = (*tokens, token), expected + chance
    return tokens, expected


def counted(text: Tokens, others: Sequence[Tokens], length: int, growth: float, least_chance: float) -> float:
    """How many tokens of the best path are expected to be right."""
    suffixes = [(texts, text[at:]) for texts in ([text], others) for at in range(len(text))]
    return max(path(texts, suffix, min(length, int(growth * len(suffix))), least_chance)[1] for texts, suffix in suffixes)


@pytest.mark.parametrize("seed", range(60))
def test_the_guess_is_the_best_path_by_counts(seed: int) -> None:
    dice = random.Random(seed)
    size = dice.randint(2, 4)
    drawn = [dice.randrange(size) for _ in range(dice.randint(1, 45))]
    text = tuple(drawn + drawn[: dice.randint(0, 12)])
    length, growth, least = dice.randint(1, 6), dice.choice([0.4, 1.0, 2.0]), dice.choice([0.0, 0.1, 0.3, 1.0])
    found = TextIndex(Committed(text)).continuation(length, growth, least)
    expected = counted(text, (), length, growth, least)
    own = [path([text], text[at:], min(length, int(growth * (len(text) - at))), least) for at in range(len(text))]
    assert (found, pytest.approx(expected)) in own if expected else not found


@pytest.mark.parametrize("seed", range(20))
def test_a_corpus_is_looked_into_as_the_text_is(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    others = [tuple(dice.randrange(3) for _ in range(dice.randint(1, 20))) for _ in range(3)]
    (tmp_path / "corpus").write_text("\n".join(" ".join(map(str, other)) for other in others))
    text = tuple(dice.randrange(3) for _ in range(12))
    found = TextIndex(Committed(text), corpus(str(tmp_path / "corpus"))).continuation(4, 1.0, 0.2)
    others = [(*other, END) for other in others]  # the end of a text takes its share of what follows
    best = [path(others, text[at:], min(4, len(text) - at), 0.2) for at in range(len(text))]
    best += [path([text], text[at:], min(4, len(text) - at), 0.2) for at in range(len(text))]
    assert (found, pytest.approx(max(expected for _, expected in best))) in best


def test_automaton_counts_occurrences() -> None:
    text = tuple(random.Random(1).choices(range(3), weights=(5, 2, 1), k=60))
    automaton = Automaton()
    for token in text:
        automaton.append(token)
    for start in range(len(text)):
        for end in range(start + 1, min(start + 6, len(text) + 1)):
            state = 0
            for token in text[start:end]:
                state = automaton.next[state][token]
            part = text[start:end]
            assert automaton.count[state] == sum(text[at : at + len(part)] == part for at in range(len(text)))


def test_a_text_that_repeats_one_token_costs_no_more_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    linked = Automaton._linked

    def counting(automaton: Automaton, state: int) -> Any:
        nonlocal steps
        for one in linked(automaton, state):
            steps += 1
            yield one

    monkeypatch.setattr(Automaton, "_linked", counting)
    index = TextIndex(Committed((7,) * 1000))
    assert steps <= 1000 * 2 * MOST_SUFFIXES
    assert index.continuation(8, 1.0, 0.1) == (7,) * 8


# --- the strategy ----------------------------------------------------------------------------------------------------


def guess_of(strategy: Any, state: Any) -> Tokens:
    effect = next(strategy.step(state))
    assert isinstance(effect, Score)
    assert all(drafted.q is None for drafted in effect.guess.drafted)
    return effect.guess.tokens


def after(strategy: Any, state: Any, tokens: Tokens) -> Any:
    """The next state where the target commits these tokens."""
    program = strategy.step(state)
    score = next(program)
    program.send(Scores(score.committed, score.guess))
    with pytest.raises(StopIteration) as end:
        program.send(Verdict(Committed(tokens), 0, False))
    return end.value.value


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("abcdXabc", "dXa"),  # as long as the match
        ("abcdXbc", "dX"),
        ("bcXbcYbcXbc", "YbcXb"),  # what followed bcXbc, not X, which followed bc more often
        ("aXpaXqaYra", "X"),  # most often
        ("bXbYb", "Y"),  # the latest, of equals
        ("cdcXcdc", "Xcd"),
        ("abcdef", ""),
        ("a", ""),
    ],
)
def test_suffix_guesses_what_followed_most_often(text: str, guess: str) -> None:
    strategy = create("suffix", draft_length=8, growth=1.0, least_chance=0.4)
    state = strategy.init(Committed(tuple(map(ord, text))), KnownFacts())
    assert "".join(map(chr, guess_of(strategy, state))) == guess


def test_growth_and_least_chance_bound_the_guess() -> None:
    text = Committed((1, 2, 3, 4, 5, 9, 1, 2))
    for parameters, guess in (
        ({"growth": 1}, (3, 4)),
        ({"growth": 2}, (3, 4, 5, 9)),
        ({"growth": 2, "draft_length": 3}, (3, 4, 5)),
    ):
        strategy = create("suffix", **parameters)
        assert guess_of(strategy, strategy.init(text, KnownFacts())) == guess
    forked = Committed((1, 2, 1, 3, 1))
    for least, guess in ((0.5, (3,)), (0.51, ())):
        strategy = create("suffix", growth=1, least_chance=least)
        assert guess_of(strategy, strategy.init(forked, KnownFacts())) == guess


def test_states_that_share_an_index_act_by_their_own_text() -> None:
    """Whichever state goes on first, and however often: as if each had been made for its text."""
    strategy, dice = create("suffix", draft_length=4), random.Random(3)
    states = [strategy.init(Committed((0, 1, 0, 1, 2)), KnownFacts())]
    for _ in range(300):
        state = dice.choice(states)
        fresh = strategy.init(Committed(state.committed.tokens), KnownFacts())
        assert state == fresh
        assert hash(state) == hash(fresh)
        assert guess_of(strategy, state) == guess_of(strategy, fresh)
        states.append(after(strategy, state, tuple(dice.randrange(3) for _ in range(dice.randint(1, 3)))))
    moved = replace(states[-1], committed=Committed((5, 6, 5)))  # as the simulator puts a text back
    assert guess_of(strategy, moved) == (6, 5)


def test_a_decode_adds_each_token_to_the_index_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, prompt, added = tiny_pair(), [1, 2, 1, 2, 1], [0]
    append = Automaton.append

    def counting(automaton: Automaton, token: int) -> None:
        added[0] += 1
        append(automaton, token)

    monkeypatch.setattr(Automaton, "append", counting)
    found = decode(pair, create("suffix"), prompt, max_new_tokens=40, temperature=0, eos=())
    assert found.tokens == greedy_tokens(pair.target, prompt, 40)
    assert found.statistics.accepted_tokens > 0
    assert len(prompt) + 40 <= added[0] <= len(prompt) + 40 + 16  # the last round may commit more than is output


# --- a corpus --------------------------------------------------------------------------------------------------------


def test_a_corpus_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.write_text("4 5 6 7\n8 9\n")
    strategy = create("suffix", growth=1, corpus=str(file))
    file.unlink()
    for text, guess in (((1, 5), (6,)), ((1, 4, 5), (6, 7)), ((7,), ()), ((6, 7), ()), ((3,), ())):
        assert guess_of(strategy, strategy.init(Committed(text), KnownFacts())) == guess
    assert guess_of(strategy, after(strategy, strategy.init(Committed((1, 4)), KnownFacts()), (5, 6))) == (7,)


def test_a_corpus_of_the_right_answer_is_accepted(tmp_path: Path) -> None:
    pair = tiny_pair()
    answer = greedy_tokens(pair.target, [1, 2, 3], 20)
    (tmp_path / "ids").write_text(" ".join(map(str, (1, 2, 3, *answer))))
    found = decode(pair, create("suffix", corpus=str(tmp_path / "ids")), [1, 2, 3], max_new_tokens=20, temperature=0, eos=())
    assert found.tokens == answer
    assert found.statistics.rounds <= 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 2\nsome text", "holds 'some' on line 2, which is no token id"),
        ("-1", "holds '-1' on line 1"),
        ("99999999999999", "which is no token id"),
        (" \n\n", "holds no token"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    (tmp_path / "ids").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=words) as refused:
        create("suffix", corpus=str(tmp_path / "ids"))
    assert "\n" not in str(refused.value)


def test_a_corpus_that_is_missing_is_refused() -> None:
    with pytest.raises(InputError, match=r"corpus 'no\.such' cannot be read"):
        create("suffix", corpus="no.such")


def test_a_corpus_of_another_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("1 2 3 5000 5001")
    with pytest.raises(StrategyError, match=r"guesses token 500\d, and the target knows 12 tokens"):
        decode(tiny_pair(), create("suffix", corpus=str(tmp_path / "ids")), [1, 2, 3], max_new_tokens=5, temperature=0)


@pytest.mark.parametrize(
    "parameters",
    [{"draft_length": 0}, {"draft_length": 1001}, {"growth": 0}, {"growth": float("nan")}, {"least_chance": 1.1}],
)
def test_parameters_that_are_not_possible_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(parameters))} .* is not possible"):
        specdec.create("suffix", **parameters)
