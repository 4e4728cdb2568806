"""Prompts: twelve short bundled ones, and those of a file.

`load` reads prompts as text to continue, `load_chats` as conversations to answer. A file has a prompt on each line, or is JSON:
a value on each line, or an array. It may be gzipped.

    HumanEval               {"prompt": ...}
    MBPP                    {"text": ..., "test_list": [...]}, or "prompt" for "text"
    GSM8K                   {"question": ...}, and MGSM: a question, a tab and the answer on each line of a `.tsv` file
    MT-bench, Spec-Bench    {"turns": [...]}
    Alpaca                  {"instruction": ..., "input": ...}
    ShareGPT                {"conversations": [{"from": "human", "value": ...}, ...]}
    OpenAI                  {"messages": [{"role": "user", "content": ...}, ...]}, alone or as the body of a batch request
"""

from __future__ import annotations

import json
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from specdec.errors import InputError
from specdec.prompts.formats import Entry, entry
from specdec.prompts.messages import Chat, Message, are_messages, checked
from specdec.prompts.reading import Item, items, read_text

__all__ = ["Chat", "Message", "bundled", "bundled_chats", "load", "load_chats", "messages_in"]


def bundled() -> list[str]:
    """Twelve short prompts: a Python function, a word problem, lines of a play, and so on in turn."""
    return [_text(item, found) for item, found in _bundled()]


def bundled_chats() -> list[Chat]:
    """The same, each as the message of a user."""
    return [found.chat for _, found in _bundled()]


def load(path: str | Path) -> list[str]:
    """The prompts of a file as texts; of a conversation, the first message of the user.

    Raises `InputError` for a file that cannot be read or holds no prompt, for a blank prompt, and for a conversation that
    begins with another message, such as the system's: only a chat template says where that goes.
    """
    return [_text(item, found) for item, found in _read(path)]


def load_chats(path: str | Path) -> list[Chat]:
    """The prompts of a file as conversations, each up to the last message of the user; a text is a message of the user.

    Raises `InputError` for a file that cannot be read or holds no prompt, and for a blank prompt.
    """
    return [found.chat for _, found in _read(path)]


def messages_in(text: str) -> list[Message] | None:
    """The one conversation that a JSON text holds: a list of messages, or `{"messages": [...]}`; `None` for any other text."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("messages")
    return checked(value) if are_messages(value) else None


def _bundled() -> list[tuple[Item, Entry]]:
    return _entries((files("specdec.prompts") / "bundled.jsonl").read_text("utf-8"), "bundled.jsonl")


def _read(path: str | Path) -> list[tuple[Item, Entry]]:
    try:
        text = read_text(Path(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"prompts file '{path}' cannot be read ({reason}): give a text or JSON-lines file in UTF-8") from error
    return _entries(text, str(path))


def _entries(text: str, name: str) -> list[tuple[Item, Entry]]:
    """Every item with its prompt. Warns of conversations in which the user says nothing, which are left out."""
    every = [(item, entry(item.value, item.where)) for item in items(text, name)]
    found = [(item, prompt) for item, prompt in every if prompt is not None]
    if not found:
        raise InputError(f"prompts file '{name}' holds no prompt: write one a line")
    if len(found) < len(every):
        silent = [item.where for item, prompt in every if prompt is None]
        warnings.warn(
            f"{silent[0]} has no message of the user: left out ({len(silent)} of {len(every)})", RuntimeWarning, stacklevel=4
        )
    return found


def _text(item: Item, found: Entry) -> str:
    if found.text is None:
        raise InputError(
            f"{item.where} begins with a message that is not the user's: read it as a conversation (--chat, load_chats)"
        )
    return found.text
