"""`--chat`: a prompt as a user's message, in `generate`, `bench` and `profile`; and where `generate` reads its prompt."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, assert_one_line
from transformers import AutoTokenizer

from specdec import Pair, create, decode
from specdec.text import Prompt, prompt_tokens

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
SHORT = ["--max-new-tokens", 4, "--temperature", 0, "--seed", 0, "--json", "-"]
TALK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="session")
def talker(models: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a pair whose tokenizers have a chat template."""
    folder = tmp_path_factory.mktemp("talker")
    for name in ("target", "draft"):
        for file in (models / name).iterdir():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / file.name).write_bytes(file.read_bytes())
        tokenizer: Any = AutoTokenizer.from_pretrained(models / name)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folder / name)
    return ["--target", str(folder / "target"), "--draft", str(folder / "draft"), "--lane", "inline"]


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        (["hello"], "[user]hello[assistant]"),
        (["hello", "--system", "short"], "[system]short[user]hello[assistant]"),
        (["--prompt-file", "story.txt"], "[user]hello\nyou[assistant]"),
        (["--prompt-file", "talk.json"], "[user]hello[assistant]"),
        (["--prompt-file", "talk.json", "--system", "short"], "[system]short[user]hello[assistant]"),
        (["--prompt-file", "request.txt"], "[user]hello[assistant]"),
        (["--prompt-file", "data.txt"], "[user][1, 2][assistant]"),
        ([json.dumps([*TALK, {"role": "assistant", "content": "so"}])], "[user]hello[assistant]so"),
    ],
    ids=str,
)
def test_generate_answers(
    run: Callable[..., Ran], talker: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], prompt: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_bytes(b"\xef\xbb\xbfhello\r\nyou")
    Path("talk.json").write_text(json.dumps(TALK, indent=2))
    Path("request.txt").write_text(json.dumps({"model": "m", "messages": TALK}))
    Path("data.txt").write_text("[1, 2]")
    ran = run("generate", *given, "--chat", *talker, *SHORT)
    assert ran.code == 0, ran.err
    assert ran.json["prompt"] == prompt
    with Pair.load(talker[1], talker[3], lane="inline") as pair:
        assert ran.json["tokens"] == list(decode(pair, create("pearl"), prompt, max_new_tokens=4, temperature=0).tokens)


def test_without_chat_the_prompt_is_continued_as_it_is(run: Callable[..., Ran], talker: list[str]) -> None:
    ran = run("generate", "hello", *talker, *SHORT)
    assert ran.json["prompt"] == "hello"
    assert "--chat" not in ran.err  # the hint is for people at a terminal


@pytest.mark.parametrize(("text", "told"), [("hello", True), ("[user]hello", True), ("<|end|>hello", False)])
def test_a_person_is_told_of_the_chat_template(
    run: Callable[..., Ran], talker: list[str], monkeypatch: pytest.MonkeyPatch, text: str, told: bool
) -> None:
    """Unless the text holds a special token, as one that a template rendered does."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.all_special_tokens", ["<|end|>"], raising=False)
    hint = "this model has a chat template: --chat takes the prompt as a user's message"
    assert (hint in run("generate", text, *talker, *SHORT).err) == told
    assert hint not in run("generate", text, "--chat", *talker, *SHORT).err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hello", "--system", "short"], "--system is a message of a conversation: give --chat too"),
        ([json.dumps(TALK)], "the prompt is a JSON list of messages: give --chat"),
        ([json.dumps([{"role": "system", "content": "a"}, *TALK]), "--chat", "--system", "b"], "leave one of the two out"),
        (["--prompt-file", "other.json", "--chat"], "prompt file 'other.json' holds no list of messages: write ["),
        (["--prompt-file", "utf16.txt"], "prompt file 'utf16.txt' cannot be read (it is UTF-16, not UTF-8): give a text file"),
        (["--prompt-file", "absent.txt"], "cannot be read (No such file or directory)"),
        (["  ", "--chat"], "is blank"),
        (["hello"], "one prompt is needed"),
    ],
    ids=str,
)
def test_generate_refuses(
    run: Callable[..., Ran], talker: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"prompt": "hello"}')
    Path("utf16.txt").write_text("hello", encoding="utf-16")
    more = ["--prompt-file", "other.json"] if message == "one prompt is needed" else []
    assert_one_line(run("generate", *given, *more, *talker, "--max-new-tokens", 4), message)


def test_a_model_without_a_template_is_named(run: Callable[..., Ran], inline: list[str]) -> None:
    for command in (["generate", "hello"], ["bench", "--limit", 1], ["profile", "--limit", 1]):
        assert_one_line(run(*command, "--chat", *inline), "the target's tokenizer has no chat template")


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_shapes_read_no_chat(run: Callable[..., Ran], command: str) -> None:
    forced = ["--verification", "synthetic:0.8"] if command == "bench" else []
    ran = run(command, "--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--chat", *forced)
    assert_one_line(ran, "--chat is for", "leave it out")


class Bytes(io.TextIOWrapper):
    """A standard input that holds these bytes, in the encoding of a terminal."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="ascii", errors="surrogateescape")


@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["text", "chat"])
def test_standard_input_is_utf8(
    run: Callable[..., Ran], talker: list[str], monkeypatch: pytest.MonkeyPatch, chat: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Bytes(b"\xef\xbb\xbfhi\r\n"))
    assert run("generate", "-", *chat, *talker, *SHORT).json["prompt"] == ("[user]hi\n[assistant]" if chat else "hi\n")
    monkeypatch.setattr("sys.stdin", Bytes(b"caf\xe9"))
    refused = run("generate", "-", *chat, *talker, *SHORT)
    assert_one_line(refused, "standard input cannot be read (byte 4, 0xe9, is not UTF-8): give text in UTF-8")
    monkeypatch.setattr("sys.stdin", None)
    assert_one_line(run("generate", "-", *chat, *talker, *SHORT), "standard input cannot be read (it is closed)")
    assert_one_line(run("generate", "caf\udce9", *chat, *talker, *SHORT), "is not UTF-8")


def test_bench_decodes_both_turns_after_the_targets_own_answer(
    run: Callable[..., Ran], talker: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Prompt] = []
    monkeypatch.setattr("specdec.bench.run.prompt_tokens", lambda pair, text: asked.append(text) or prompt_tokens(pair, text))
    (tmp_path / "mt_bench.jsonl").write_text('{"turns": ["hello", "again"]}\n{"turns": ["bye"]}\n{"turns": ["left", "out"]}\n')
    options = ["--strategy", "speculative", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 4, "--temperature", 1]
    prompts = ["--prompts", tmp_path / "mt_bench.jsonl", "--limit", 2, "--json", "-"]
    ran = run("bench", "--chat", *talker, *options, *prompts)
    assert ran.code == 0, ran.err
    with Pair.load(talker[1], lane="inline") as pair:
        answer = decode(pair, create("autoregressive"), TALK, max_new_tokens=4, temperature=0).text
    assert len(answer) == 4
    second = [*TALK, {"role": "assistant", "content": answer}, {"role": "user", "content": "again"}]
    assert [list(messages) for messages in asked] == [TALK, second, [{"role": "user", "content": "bye"}]]
    assert ran.json["settings"]["prompts"] == 3
    assert ran.json["settings"]["prompts_file"].endswith("mt_bench.jsonl (chat)")
    asked.clear()
    assert run("bench", *talker, *options, *prompts).json["settings"]["prompts"] == 2
    assert asked == ["hello", "bye"]


def test_profile_reads_conversations(run: Callable[..., Ran], talker: list[str], tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text(json.dumps([{"messages": [{"role": "system", "content": "s"}, *TALK]}]))
    options = ["--repeats", 2, "--max-new-tokens", 2, "--json", "-", "--prompts", tmp_path / "talk.json"]
    assert_one_line(run("profile", *talker, *options), "begins with a message that is not the user's")
    ran = run("profile", *talker, *options, "--chat")
    assert ran.code == 0, ran.err
    assert "talk.json" in ran.json["acceptance"]["by_file"]
