"""From a file to its items: decoded JSON values, or plain lines, each with the words that say where it stands.

The file's own name decides whether it is JSON; the content decides if the name does not. Knows no format of prompts.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from specdec.errors import InputError
from specdec.prompts.messages import are_messages

JSON_NAMES = (".json", ".jsonl", ".ndjson")
LINES_OF_JSON = (".jsonl", ".ndjson")
QUESTIONS = ".tsv"
OTHER_FORMATS = (".csv", ".yaml", ".yml", ".xml")
GZIP = b"\x1f\x8b"
LOOKS_LIKE_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*["{\[\]])')
"""The first characters of an object, or of an array of texts, objects or arrays. `[INST]` and `{% if` are plain text."""


class Item(NamedTuple):
    """A prompt of a file, as it stands there."""

    value: Any
    where: str


def read_text(path: Path) -> str:
    """The text of a file, unzipped. Raises `OSError` or `ValueError` with the reason if there is none."""
    raw = path.read_bytes()
    try:
        return text_in(gzip.decompress(raw) if path.suffix.lower() == ".gz" or raw.startswith(GZIP) else raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error


def text_in(raw: bytes) -> str:
    r"""UTF-8 text without its byte-order mark, its lines ended by `\n`. Raises `ValueError` with the reason."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16, not UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1}, {raw[error.start]:#04x}, is not UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def items(text: str, name: str) -> list[Item]:
    """The items in the text of a file of that `name`. Raises `InputError` for text that is not in its format."""
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    if suffix in OTHER_FORMATS:
        raise InputError(f"prompts file '{name}' is {suffix[1:].upper()}, which is not read: write plain or JSON lines")
    if suffix in JSON_NAMES or LOOKS_LIKE_JSON.match(text):
        return _json_items(text, name, by_line=suffix in LINES_OF_JSON)
    found: list[Item] = []
    for line, where in _lines(text, name):
        if suffix == QUESTIONS:
            found.append(Item(_question(line, where), where))
        elif LOOKS_LIKE_JSON.match(line):
            raise InputError(f"{where} looks like JSON among plain lines: write every line of the file as JSON, or none")
        else:
            found.append(Item(line, where))
    return found


def _json_items(text: str, name: str, *, by_line: bool) -> list[Item]:
    """One value, the items of an array, or a value on each line; a list of messages is one value."""
    if not text.strip():
        return []
    try:
        whole = json.loads(text)
    except RecursionError as error:
        raise InputError(f"'{name}' is nested too deeply: write one object a line") from error
    except json.JSONDecodeError as error:
        if by_line or error.msg == "Extra data":
            return [Item(_json_line(line, where), where) for line, where in _lines(text, name)]
        raise InputError(
            f"'{name}' line {error.lineno} is not JSON ({error.msg}): write an array, or one object a line"
        ) from error
    if isinstance(whole, list) and not are_messages(whole):
        return [Item(value, f"'{name}' item {number}") for number, value in enumerate(whole, start=1)]
    return [Item(whole, next(_lines(text, name))[1])]


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): write one object a line") from error


def _question(line: str, where: str) -> dict[str, str]:
    """A line of MGSM: a question and its answer."""
    question, tab, answer = line.partition("\t")
    if not tab or "\t" in answer:
        raise InputError(f"{where} is no question and answer with a tab between them: write plain or JSON lines")
    return {"question": question, "answer": answer}


def _lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with the words that say where it stands."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line, f"'{name}' line {number}"
