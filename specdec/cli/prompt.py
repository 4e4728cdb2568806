"""The prompt of a command: a text to continue, or a conversation to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.errors import InputError
from specdec.prompts import Message, messages_in
from specdec.prompts.messages import EXAMPLE
from specdec.prompts.reading import JSON_NAMES, read_text, text_in

if TYPE_CHECKING:
    from specdec.pair import Pair

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class PromptOptions:
    """Where the prompt comes from, and whether it is a text or a conversation."""

    prompt: Annotated[str | None, typer.Argument(help="The text to continue; - reads standard input.")] = None
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the prompt from a file; with --chat also a JSON list of messages.")
    ] = None
    chat: Annotated[
        bool, typer.Option("--chat", help="Take the prompt as a user's message, and answer it by the target's chat template.")
    ] = False
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system's message before it; needs --chat.")] = None

    def read(self) -> str | list[Message]:
        """The text, or the messages. Raises `InputError` for none, for both sources, and for what cannot be read."""
        if (self.prompt is None) == (self.prompt_file is None):
            raise InputError("one prompt is needed: give it as the argument, as - for standard input, or by --prompt-file")
        if self.system is not None and not self.chat:
            raise InputError("--system is a message of a conversation: give --chat too")
        text = self._text()
        messages = messages_in(text)
        if not self.chat:
            if messages is not None:
                raise InputError("the prompt is a JSON list of messages: give --chat to answer it")
            return text
        if messages is None and self.prompt_file is not None and self.prompt_file.lower().endswith(JSON_NAMES):
            raise InputError(f"prompt file '{self.prompt_file}' holds no list of messages: write [{EXAMPLE}], or plain text")
        return self._with_system(messages or [{"role": "user", "content": text}])

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if self.system is None:
            return list(messages)
        if messages[0]["role"] == "system":
            raise InputError(f"--system {self.system!r}: the messages have one of the system already: leave one of the two out")
        return [{"role": "system", "content": self.system}, *messages]

    def _text(self) -> str:
        source, given = f"prompt file '{self.prompt_file}'", "a text file in UTF-8"
        try:
            if self.prompt_file is not None:
                return read_text(Path(self.prompt_file))
            if self.prompt != STANDARD_INPUT:
                return self.prompt or ""
            source, given = "standard input", "text in UTF-8"
            return _standard_input()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise InputError(f"{source} cannot be read ({reason}): give {given}") from error


def _standard_input() -> str:
    if sys.stdin is None:  # it was closed when the program started
        raise ValueError("it is closed")
    return text_in(sys.stdin.buffer.read())


def shown(pair: Pair, prompt: str | list[Message]) -> str:
    """The text that the model reads."""
    from specdec.chat import rendered

    if isinstance(prompt, str):
        return prompt
    assert pair.tokenizer is not None
    return rendered(pair.tokenizer, prompt)


def chat_hint(pair: Pair, prompt: str | list[Message]) -> str:
    """What to say of a model that is made for conversations and was given a text to continue; else nothing."""
    tokenizer = pair.tokenizer
    if tokenizer is None or tokenizer.chat_template is None or not isinstance(prompt, str):
        return ""
    templated = any(token in prompt for token in tokenizer.all_special_tokens)
    return "" if templated else "this model has a chat template: --chat takes the prompt as a user's message"
