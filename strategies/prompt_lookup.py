"""Prompt lookup: guesses are copied from the text (Saxena 2023; transformers' `prompt_lookup_num_tokens`).

Looks for an earlier occurrence of the last tokens, and guesses the tokens that followed it. No draft model is needed. Every
guess is certain (`q` is one-hot), so the token rule accepts it with probability `p`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import DecodingStrategy, Guess, Program, Score, State, Verify
from specdec.inputs import at_least_one
from specdec.lengths import longest_draft


@dataclass(frozen=True)
class PromptLookup(DecodingStrategy):
    """Guess up to `draft_length` tokens that followed the last `longest_match` (or fewer) tokens earlier in the text."""

    name: ClassVar[str] = "prompt_lookup"
    drafts: ClassVar[bool] = False
    draft_length: int = 8
    longest_match: int = 3

    def __post_init__(self) -> None:
        longest_draft(draft_length=self.draft_length)
        at_least_one(longest_match=self.longest_match)

    def step(self, state: State) -> Program[State]:
        guess = Guess.certain(self._continuation(state.committed.tokens))
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)

    def _continuation(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens after the latest earlier occurrence of the longest suffix that has one; none if no suffix has."""
        for size in range(min(self.longest_match, len(tokens) - 1), 0, -1):
            suffix = tokens[-size:]
            for start in range(len(tokens) - size - 1, -1, -1):
                if tokens[start : start + size] == suffix:
                    return tokens[start + size : start + size + self.draft_length]
        return ()
