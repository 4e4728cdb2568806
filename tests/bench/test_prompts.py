"""The bundled prompts, and those of files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from specdec import InputError, prompts

PUBLISHED = Path(__file__).resolve().parents[1] / "data/prompts"
"""Excerpts of HumanEval, GSM8K and MT-bench."""


def test_the_bundled_prompts_are_of_three_kinds() -> None:
    texts = prompts.bundled()
    assert len(texts) == 12
    kinds = [
        sum(text.startswith(("def ", "import ", "class ")) for text in texts),
        sum(text.startswith("Question: ") and text.endswith("\nAnswer:") for text in texts),
        sum(text.split("\n")[0].endswith(":") and not text.startswith(("def ", "class ")) for text in texts),
    ]
    assert kinds == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.txt", "one\n\ntwo: 2\n", ["one", "two: 2"]),
        ("human.jsonl", '{"task_id": 1, "prompt": "def f():\\n"}\n', ["def f():\n"]),
        ("human.jsonl.gz", '{"prompt": "a"}\n{"prompt": "b"}', ["a", "b"]),
        ("gsm.jsonl", '{"question": "How many?", "answer": "3"}', ["Question: How many?\nAnswer:"]),
        ("mt.jsonl", '{"turns": ["first", "second"], "category": "x"}', ["first"]),
        ("unnamed", '{"prompt": "line\u2028separator"}', ["line\u2028separator"]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert prompts.load(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("HumanEval.jsonl.gz", "from typing import List\n\n\ndef has_close_elements", '"""\n'),
        ("gsm8k_test.jsonl", "Question: Janet", "?\nAnswer:"),
        ("mt_bench.jsonl", "Compose an engaging travel blog post", "must-see attractions."),
    ],
)
def test_published_prompt_files(name: str, begins: str, ends: str) -> None:
    texts = prompts.load(PUBLISHED / name)
    assert len(texts) == 20
    assert texts[0].startswith(begins)
    assert texts[0].endswith(ends)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("empty.txt", b"\n \n", "holds no prompt: write one a line"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ("other.jsonl", b'{"text": "a"}', "line 1 has no prompt: write"),
        ("not.gz", b"plain", "cannot be read"),
        ("cut.gz", gzip.compress(b"plain text", mtime=0)[:-6], "cannot be read"),
        ("bytes.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=message) as caught:
        prompts.load(tmp_path / name)
    assert name in str(caught.value)
