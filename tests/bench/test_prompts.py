"""The bundled prompts, and those of files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from specdec import InputError, prompts
from specdec.cli.profile import chosen_prompts

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
        ("windows.txt", "\ufeffone\r\n\r\ntwo\r\n", ["one", "two"]),
        ("windows.jsonl", '\ufeff{"prompt": "a\\n"}\r\n{"prompt": "b"}\r\n', ["a\n", "b"]),
        ("mac.txt", "one\rtwo", ["one", "two"]),
        ("zipped.txt", gzip.compress(b"one\ntwo", mtime=0), ["one", "two"]),
        ("UPPER.JSONL.GZ", gzip.compress(b'"one"\n"two"\n', mtime=0), ["one", "two"]),
        ("texts.json", '["one", "two"]', ["one", "two"]),
        ("array", '\n [\n {"prompt": "one"},\n {"question": "two"}]', ["one", "Question: two\nAnswer:"]),
        ("one.json", '{\n  "prompt": "one"\n}', ["one"]),
        (
            "tags.txt",
            "[INST] one [/INST]\n{% if %}\n{two}\n[3] three",
            ["[INST] one [/INST]", "{% if %}", "{two}", "[3] three"],
        ),
        ("jsonl.txt", '{"prompt": "one"}\n{"prompt": "two"}', ["one", "two"]),
        ("mgsm_en.tsv", "How many?\t3\n", ["Question: How many?\nAnswer:"]),
        (
            "mbpp.jsonl",
            '{"text": "Write it.", "code": "x", "task_id": 1, "test_list": ["assert f(1)", "assert f(2)"]}',
            ['"""\nWrite it.\nassert f(1)\n"""\n'],
        ),
        ("sanitized-mbpp.json", '[{"prompt": "Write it.", "test_list": []}]', ['"""\nWrite it.\n"""\n']),
        ("alpaca.json", '[{"instruction": "Add.", "input": "1, 2", "output": "3"}]', ["Add.\n1, 2"]),
        ("dolly.jsonl", '{"instruction": "Add.", "context": "", "response": "3"}', ["Add."]),
        ("spec_bench.jsonl", '{"question_id": 1, "category": "qa", "turns": ["who?"]}', ["who?"]),
        ("openai.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}', ["hi"]),
        ("list.jsonl", '[{"role": "user", "content": "a"}]\n[{"role": "user", "content": "b"}]', ["a", "b"]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert prompts.load(tmp_path / name) == expected


def test_the_name_of_a_folder_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl.d").mkdir()
    (tmp_path / "prompts.jsonl.d/plain.txt").write_text("one\ntwo\n")
    assert prompts.load(tmp_path / "prompts.jsonl.d/plain.txt") == ["one", "two"]


# --- conversations

USER, ANSWER, SYSTEM = ({"role": role, "content": role[0]} for role in ("user", "assistant", "system"))
SHARE_GPT = [{"from": "gpt", "value": "x"}, {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("value", "messages", "later"),
    [
        ({"prompt": "u"}, [USER], ()),
        ("u", [USER], ()),
        ({"question": "u", "answer": "3"}, [USER], ()),
        ({"turns": ["u", "second", "third"]}, [USER], ("second", "third")),
        ({"instruction": "u", "input": ""}, [USER], ()),
        ({"text": "u", "test_list": ["t1", "t2"]}, [USER | {"content": "u\nYour code should pass these tests:\n\nt1\nt2"}], ()),
        ({"messages": [USER, ANSWER]}, [USER], ()),
        ({"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]}, [SYSTEM, USER, ANSWER, USER], ()),
        ({"messages": [ANSWER, USER]}, [ANSWER, USER], ()),
        (
            {"custom_id": "1", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [SYSTEM, USER]}},
            [SYSTEM, USER],
            (),
        ),
        ({"prompt": [USER], "chosen": [ANSWER]}, [USER], ()),
        ([SYSTEM, USER], [SYSTEM, USER], ()),
        ({"id": "1_0", "conversations": SHARE_GPT}, [USER], ()),
        ({"conversations": [*SHARE_GPT, SHARE_GPT[1]]}, [USER, ANSWER, USER], ()),
        ({"system": "s", "conversations": SHARE_GPT}, [SYSTEM, USER], ()),
        ({"conversations": [SYSTEM, USER, ANSWER]}, [SYSTEM, USER], ()),
    ],
    ids=str,
)
def test_conversations(tmp_path: Path, value: Any, messages: list[Any], later: tuple[str, ...]) -> None:
    (tmp_path / "file.json").write_text(json.dumps(value))
    (tmp_path / "two.jsonl").write_text(f"{json.dumps(value)}\n" * 2)
    expected = prompts.Chat(tuple(messages), later)
    assert prompts.load_chats(tmp_path / "file.json") == [expected]
    assert prompts.load_chats(tmp_path / "two.jsonl") == [expected] * 2
    if messages[0]["role"] != "user":
        with pytest.raises(InputError, match=r"file.json' line 1 begins with a message that is not the user's: .*--chat"):
            prompts.load(tmp_path / "file.json")


def test_plain_lines_and_bundled_prompts_are_messages_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("one\ntwo\n")
    assert prompts.load_chats(tmp_path / "plain.txt") == [prompts.Chat.of("one"), prompts.Chat.of("two")]
    assert len(prompts.bundled_chats()) == len(prompts.bundled())
    assert prompts.bundled_chats()[0].messages[0]["content"] == prompts.bundled()[0]
    assert not str(prompts.bundled_chats()[1].messages[0]["content"]).startswith("Question")


def test_conversations_without_the_user_are_left_out_with_a_word(tmp_path: Path) -> None:
    file = tmp_path / "ShareGPT.json"
    file.write_text(json.dumps([{"conversations": said} for said in ([], SHARE_GPT[:1], SHARE_GPT)]))
    with pytest.warns(RuntimeWarning, match=r"ShareGPT.json' item 1 has no message of the user: left out \(2 of 3\)"):
        assert prompts.load(file) == ["u"]
    file.write_text(json.dumps([{"conversations": []}]))
    with pytest.raises(InputError, match="holds no prompt"):
        prompts.load(file)


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
        ("bytes.txt", b"\xff\xfe", r"cannot be read \(it is UTF-16, not UTF-8\)"),
        ("latin.txt", b"caf\xe9\n", r"cannot be read \(byte 4, 0xe9, is not UTF-8\): give a text or JSON-lines file in UTF-8"),
        ("blank.jsonl", b'{"prompt": "a"}\n\n{"prompt": " "}\n', "line 3 is blank: give at least one word"),
        ("blank.json", b'[{"prompt": "a"}, {"turns": ["b", ""]}]', "item 2 is blank"),
        ("blank_chat.json", b'{"messages": [{"role": "user", "content": ""}]}', r"line 1 \(message 1\) is blank"),
        ("said.json", b'[{"conversations": [{"from": "human"}]}]', r"item 1 \(message 1\) has no role"),
        ("seen.json", b'[[{"role": "user", "content": [{"type": "image"}]}]]', "item 1 .* has a part of type 'image'"),
        ("mixed.txt", b'one\n{"prompt": "two"}\n', "line 2 looks like JSON among plain lines"),
        ("mixed.jsonl", b'{"prompt": "one"}\ntwo\n', "line 2 is not JSON"),
        ("cut.json", b'[\n  {"prompt": "one"},\n  {"prom', "line 3 is not JSON"),
        ("cut", b'[{"prompt": "one"}', "line 1 is not JSON"),
        ("plain.json", b"one\n", "line 1 is not JSON"),
        ("deep.json", b"[" * 100_000, "nested too deeply"),
        ("deep.jsonl", b'{"prompt": "a"}\n' + b"[" * 100_000, "line 2 is not JSON"),
        ("empty.json", b"", "holds no prompt"),
        ("none.json", b"[]", "holds no prompt"),
        ("numbers.json", b"[1, 2]", "item 1 has no prompt"),
        ("null.json", b"null", "line 1 has no prompt"),
        ("ids.json", b"[[1, 2]]", "item 1 has no prompt"),
        ("number.json", b'{"turns": ["a", 1]}', "line 1 has 1 where text is due"),
        ("table.csv", b"prompt\none\n", "is CSV, which is not read: write plain or JSON lines"),
        ("prompts.YAML", b"- one\n", "is YAML"),
        ("three.tsv", b"a\tb\tc\n", "line 1 is no question and answer"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=message) as caught:
        prompts.load(tmp_path / name)
    assert name in str(caught.value)


def test_prompts_of_two_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for folder in ("code", "math"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.txt").write_text(folder)
    (tmp_path / "other.txt").write_text("other")
    files = [str(tmp_path / name) for name in ("code/test.txt", "math/test.txt", "other.txt")]
    assert chosen_prompts(files, 5, chat=False) == {files[0]: ["code"], files[1]: ["math"], "other.txt": ["other"]}
