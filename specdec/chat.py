"""From messages to tokens: the chat template of a tokenizer, applied as `transformers` applies it.

The tokens are those of `apply_chat_template` with a generation prompt. If the assistant speaks last, its message is continued,
as in the text-generation pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from specdec.errors import InputError
from specdec.prompts.messages import USER, Message, checked, text_of


def is_conversation(prompt: Any) -> bool:
    """Whether a prompt is a list of messages rather than of token ids."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> tuple[int, ...]:
    """The token ids of a conversation. Raises `InputError` if there is no template, or if it refuses the messages."""
    return tuple(_applied(tokenizer, _as_read(tokenizer, messages), tokenize=True))


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> str:
    """The same as text."""
    return str(_applied(tokenizer, _as_read(tokenizer, messages), tokenize=False))


def _as_read(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> list[Message]:
    """The messages in a form that the template reads: as they are, or else with all contents as texts, or as lists of parts.

    Some templates print a list as Python does, and others skip a text; neither says so. So the rendered text must hold what the
    user said last. If no form does that, the messages are rendered as they are.
    """
    given = checked(messages)
    if tokenizer.chat_template is None:
        raise InputError(
            "the target's tokenizer has no chat template, which messages need: give the prompt as text, "
            "or set the tokenizer's `chat_template`"
        )
    refused: Exception | None = None
    for form in (given, [_flat(message) for message in given], [_in_parts(message) for message in given]):
        try:
            text = str(_applied(tokenizer, form, tokenize=False))
        except Exception as error:  # a template may raise anything
            refused = error if form is given else refused
        else:
            if _says(text, form):
                return form
    if refused is not None:
        reason = " ".join(str(refused).split())
        raise InputError(f"the chat template refuses these messages ({reason}): change their roles or contents") from refused
    return given


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tokenize: bool) -> Any:
    continued = messages[-1]["role"] == "assistant"
    conversation: Any = list(messages)
    return tokenizer.apply_chat_template(
        conversation,
        tokenize=tokenize,
        return_dict=False,
        add_generation_prompt=not continued,
        continue_final_message=continued,
    )


def _flat(message: Message) -> Message:
    return {**message, "content": text_of(message)} if isinstance(message.get("content"), list | tuple) else message


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _says(text: str, messages: Sequence[Message]) -> bool:
    """Whether the rendered text holds all parts of the last message of the user, and no list of parts as Python prints it."""
    said = [message["content"] for message in messages if message["role"] == USER][-1:]
    words = [part if isinstance(part, str) else part["text"] for content in said for part in _parts(content)]
    lists = [str(message["content"]) for message in messages if isinstance(message.get("content"), list | tuple)]
    return all(part.strip() in text for part in words) and not any(shown in text for shown in lists)


def _parts(content: Any) -> Sequence[Any]:
    return [content] if isinstance(content, str) else content
