"""Conversations as prompts of a benchmark: one for each turn. In later turns, the answers before them are the target's own.

The target answers greedily, without a draft. So all contenders decode the same prompts, whatever they draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specdec.bench.values import BASELINE
from specdec.decoding import decode
from specdec.pair import Pair
from specdec.prompts import Chat
from specdec.report import Progress
from specdec.strategy import create
from specdec.text import Prompt


def turns(pair: Pair, prompts: Sequence[Prompt | Chat], max_new_tokens: int, progress: Progress) -> list[Prompt]:
    """The prompts, with the messages of every turn in the place of a conversation.

    An answer between two turns has at most `max_new_tokens` tokens, and is a step of `progress`. Raises `InputError` for
    messages that the pair's chat template refuses.
    """
    found: list[Prompt] = []

    def steps() -> Iterator[str]:
        for prompt in prompts:
            if isinstance(prompt, Chat):
                yield from _answered(pair, prompt, max_new_tokens, found)
            else:
                found.append(prompt)

    answers = sum(len(prompt.later) for prompt in prompts if isinstance(prompt, Chat))
    for _ in progress(steps(), answers) if answers else steps():
        pass
    return found


def _answered(pair: Pair, chat: Chat, max_new_tokens: int, found: list[Prompt]) -> Iterator[str]:
    messages = chat.messages
    found.append(messages)
    for said in chat.later:
        yield "answering what comes before a later turn"
        answer = decode(pair, create(BASELINE), messages, max_new_tokens=max_new_tokens, temperature=0).text
        messages = (*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": said})
        found.append(messages)
