"""Prompts: twelve short bundled ones, and those of a file.

A file is plain text with a prompt on each line, or JSON lines as in HumanEval, GSM8K and MT-bench, gzipped or not:

    {"prompt": ...}      the prompt itself (HumanEval)
    {"question": ...}    written as "Question: ...\\nAnswer:" (GSM8K)
    {"turns": [...]}     the first turn (MT-bench)
"""

from __future__ import annotations

import gzip
import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from specdec.errors import InputError


def bundled() -> list[str]:
    """Twelve short prompts: a Python function, a word problem, lines of a play, and so on in turn."""
    return from_lines((files("specdec.prompts") / "bundled.jsonl").read_text("utf-8"), "bundled.jsonl")


def load(path: str | Path) -> list[str]:
    """The prompts of a file. Raises `InputError` for a file that cannot be read or holds no prompt."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"prompts file '{path}' cannot be read ({reason}): give a text or JSON-lines file") from error
    return from_lines(text, str(path))


def from_lines(text: str, name: str) -> list[str]:
    """The prompts in `text`: JSON lines if the file's `name` has `.json` in it or the text begins with `{`, else plain lines.

    Raises `InputError` if there is none, or a line holds no prompt.
    """
    as_json = ".json" in name or text.lstrip().startswith("{")
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    prompts = [_from_json(line, f"'{name}' line {number}") if as_json else line for number, line in numbered]
    if not prompts:
        raise InputError(f"prompts file '{name}' holds no prompt: write one a line")
    return prompts


def _from_json(line: str, where: str) -> str:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): write one object a line") from error
    match item:
        case {"prompt": str(prompt)}:
            return prompt
        case {"question": str(question)}:
            return f"Question: {question}\nAnswer:"
        case {"turns": [str(turn), *_]}:
            return turn
        case _:
            raise InputError(f'{where} has no prompt: write {{"prompt": "..."}}, {{"question": ...}} or {{"turns": [...]}}')
