"""Messages, as chat templates take them: `{"role": "user", "content": "Hello"}`. Checks them; knows no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from specdec.errors import InputError
from specdec.inputs import is_text

Message: TypeAlias = Mapping[str, Any]

EXAMPLE = '{"role": "user", "content": "..."}'
USER = "user"


@dataclass(frozen=True)
class Chat:
    """A conversation of a prompt file.

    `messages`   those to answer: up to the last one of the user
    `later`      what the user says next, once for each answer of the model: the second turn of MT-bench
    """

    messages: tuple[Message, ...]
    later: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, *later: str) -> Chat:
        """A conversation that begins with this message of the user."""
        return cls(({"role": USER, "content": text},), later)


def are_messages(value: Any) -> bool:
    """Whether it is a list of messages rather than of anything else: its first item has a role."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def checked(messages: Sequence[Any], where: str = "the prompt") -> list[Message]:
    """The messages, if each has a role and text. Raises `InputError` that begins with `where`."""
    for number, message in enumerate(messages, start=1):
        of_message = f"{where} (message {number})"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"{of_message} has no role: write each message as {EXAMPLE}")
        if message.get("content") is None and not message.get("tool_calls"):
            raise InputError(f"{of_message} has no content: write each message as {EXAMPLE}")
        text = text_of(message, of_message)
        if not is_text(text):
            raise InputError(f"{of_message} holds bytes that are not UTF-8: convert it")
        if message["role"] == USER and not text.strip():
            raise InputError(f"{of_message} is blank: give at least one word")
    return [dict(message) for message in messages]


def text_of(message: Message, where: str = "the prompt") -> str:
    """The text of a message, that of several parts on lines of their own. Raises `InputError` for anything but text."""
    content = message.get("content")
    match content:
        case None:
            return ""
        case str():
            return content
        case list() | tuple():
            return "\n".join(_text_of_part(part, where) for part in content)
        case _:
            raise InputError(f"{where} has content of type {type(content).__name__}: give text, or a list of text parts")


def _text_of_part(part: Any, where: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)}:
            raise InputError(
                f"{where} has a part of type {kind!r}, and only text is read: leave it out, or use model.generate with "
                "custom_generate"
            )
        case _:
            raise InputError(f'{where} has a part without a type: write {{"type": "text", "text": "..."}}')
