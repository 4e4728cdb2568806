"""Suffix decoding: guesses are what followed the end of the text before (Oliaro et al. 2024, arXiv 2411.04975, section 4).

A suffix of the text that occurred before, here or in a corpus of earlier outputs, says what may follow: the path of the
likeliest next tokens, by how often each followed. Each suffix has a path. The one with the most tokens that are expected to be
right is the guess. Longer suffixes allow longer paths. No draft model is needed, and every guess is certain (`q` is one-hot).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import Committed, DecodingStrategy, Facts, Guess, InputError, Program, Score, Verify
from specdec.inputs import between, texts
from specdec.lengths import LONGEST_DRAFT, longest_draft
from specdec.suffixes import TextIndex, TextState, corpus


@dataclass(frozen=True)
class Suffix(DecodingStrategy):
    """Guess up to `draft_length` tokens, and at most `growth` for each token of the suffix that they followed.

    `least_chance`   the path ends before its chance falls below this
    `corpus`         a file of token ids, one text on each line, that is looked into beside the text itself
    """

    name: ClassVar[str] = "suffix"
    drafts: ClassVar[bool] = False
    draft_length: int = 16
    growth: float = 4.0
    least_chance: float = 0.1
    corpus: str = ""

    def __post_init__(self) -> None:
        longest_draft(draft_length=self.draft_length)
        between(0, LONGEST_DRAFT, growth=self.growth)
        between(0, 1, least_chance=self.least_chance)
        if not self.growth:
            raise InputError("growth 0 is not possible: give a number above 0")
        texts(corpus=self.corpus)
        if self.corpus:
            corpus(self.corpus)

    def init(self, prompt: Committed, facts: Facts) -> TextState:
        return TextState(prompt, TextIndex(prompt, corpus(self.corpus) if self.corpus else None))

    def step(self, state: TextState) -> Program[TextState]:
        index = state.index.at(state.committed)
        guess = Guess.certain(index.continuation(self.draft_length, self.growth, self.least_chance))
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return index.then(state.committed, verdict.tokens)
