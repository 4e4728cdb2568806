"""The formats of published prompts: from a decoded JSON value to a prompt, read as text or as a conversation.

Sources: the repositories of HumanEval, MBPP, GSM8K, MT-bench, Spec-Bench, Alpaca and ShareGPT, and OpenAI's chat and batch
files. MBPP as text is written as in the paper on InCoder (Fried et al., 2023): a docstring with the first test.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from specdec.errors import InputError
from specdec.prompts.messages import USER, Chat, Message, are_messages, checked, text_of

KINDS = '{"prompt": "..."}, or "question", "turns", "instruction", "messages" or "conversations" as in published files'
ASSISTANT = "assistant"
SPEAKERS = {"human": USER} | dict.fromkeys(("gpt", "chatgpt", "bard", "bing"), ASSISTANT)
"""Roles of ShareGPT, where they are not those of templates."""


@dataclass(frozen=True)
class Entry:
    """A prompt in both readings: `text` to continue, and a conversation to answer.

    `text` is `None` for a conversation that a chat template is needed for, since something comes before the user's message.
    """

    text: str | None
    chat: Chat


def entry(value: Any, where: str) -> Entry | None:
    """The prompt in a value, or `None` for a conversation in which the user says nothing. Raises `InputError` for no prompt."""
    match value:
        case {"messages": list(messages)} | {"prompt": list(messages)}:
            return _conversation(checked(messages, where), where)
        case list() if are_messages(value):
            return _conversation(checked(value, where), where)
        case {"conversations": list(said)}:
            return _share_gpt(said, value.get("system"), where)
        case {"body": dict(body)}:
            return entry(body, where)
        case {"prompt": str(task), "test_list": list(tests)} | {"text": str(task), "test_list": list(tests)}:
            return _mbpp(_words(task, where), tests, where)
        case {"prompt": str(prompt)}:
            return _plain(_words(prompt, where))
        case {"question": str(question)}:
            return Entry(f"Question: {_words(question, where)}\nAnswer:", Chat.of(question))
        case {"turns": [str(), *_] as turns}:
            first, *later = (_words(turn, where) for turn in turns)
            return Entry(first, Chat.of(first, *later))
        case {"instruction": str(instruction)}:
            return _alpaca(_words(instruction, where), value.get("input") or value.get("context"), where)
        case str():
            return _plain(_words(value, where))
        case _:
            raise InputError(f"{where} has no prompt: write {KINDS}")


def _plain(text: str) -> Entry:
    return Entry(text, Chat.of(text))


def _words(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{where} has {text!r} where text is due: write it in quotes")
    if not text.strip():
        raise InputError(f"{where} is blank: give at least one word, or leave it out")
    return text


def _alpaca(instruction: str, given: Any, where: str) -> Entry:
    return _plain(f"{instruction}\n{_words(given, where)}" if given else instruction)


def _mbpp(task: str, tests: list[Any], where: str) -> Entry:
    lines = [_words(test, where) for test in tests]
    docstring = "\n".join(['"""', task, *lines[:1], '"""', ""])
    asked = "\n".join([task, "Your code should pass these tests:", "", *lines]) if lines else task
    return Entry(docstring, Chat.of(asked))


def _share_gpt(said: list[Any], system: Any, where: str) -> Entry | None:
    """A conversation of ShareGPT. Some are pieces of longer ones, and begin in an answer, which is left out."""
    messages = dropwhile(lambda message: message["role"] == ASSISTANT, checked([_spoken(part) for part in said], where))
    given = checked([{"role": "system", "content": system}], where) if system else []
    return _conversation([*given, *messages], where)


def _spoken(part: Any) -> Any:
    match part:
        case {"from": str(speaker), "value": str(text)}:
            return {"role": SPEAKERS.get(speaker, speaker), "content": text}
        case _:
            return part


def _conversation(messages: list[Message], where: str) -> Entry | None:
    """Cut after the last message of the user."""
    of_user = [i for i, message in enumerate(messages) if message["role"] == USER]
    if not of_user:
        return None
    first, last = of_user[0], of_user[-1]
    return Entry(None if first else text_of(messages[0], where), Chat(tuple(messages[: last + 1])))
