"""`specdec generate`: the text of the library call, its streams, its look on a terminal, and Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran

from specdec import Pair, create, decode
from specdec.generated import Generated
from specdec.text import Text


def test_generate_is_the_library_call(run: Callable[..., Ran], inline: list[str], models: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--strategy", "speculative", "--draft-length", 3, "--max-new-tokens", 30, "--temperature", 0.7, "--top-k", 20]
    ran = run("generate", "hello", *inline, *options, "--verification", "block", "--seed", 5, "--json", target)
    report = json.loads(target.read_text())
    with Pair.load(models / "target", models / "draft", lane="inline") as loaded:
        expected = decode(
            loaded,
            create("speculative", draft_length=3),
            "hello",
            max_new_tokens=30,
            temperature=0.7,
            top_k=20,
            verification="block",
            seed=5,
        )
    assert ran.code == 0
    assert report["tokens"] == list(expected.tokens)
    assert report["text"] == expected.text
    assert report["finished_by"] == "length"
    assert report["statistics"]["new_tokens"] == 30
    assert ran.out == expected.text + "\n"  # nothing but the text
    assert "speculative draft_length=3" in ran.err


def test_generate_draws_a_seed_and_tells_it(run: Callable[..., Ran], inline: list[str]) -> None:
    options = ["hello", *inline, "--draft-length", 2, "--max-new-tokens", 20, "--json", "-"]
    first, second = (run("generate", *options).json for _ in range(2))
    again = run("generate", *options, "--seed", first["settings"]["seed"]).json
    assert first["settings"]["seed"] != second["settings"]["seed"]
    assert again["text"] == first["text"]


def test_prompts_from_a_file_and_from_standard_input(
    run: Callable[..., Ran], inline: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text("from a file")
    options = [*inline, "--draft-length", 2, "--max-new-tokens", 2, "--json", "-"]
    assert run("generate", "--prompt-file", tmp_path / "prompt.txt", *options).json["prompt"] == "from a file"
    with (tmp_path / "prompt.txt").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run("generate", "-", *options).json["prompt"] == "from a file"


def test_the_length_that_auto_stood_for_is_printed_recorded_and_can_be_given_back(
    run: Callable[..., Ran], inline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = iter([2.7, 5.2])
    monkeypatch.setattr("specdec.pair.speed_ratio", lambda *_, **__: next(ratios))
    options = ["generate", "hello", *inline, "--max-new-tokens", 24, "--temperature", 1, "--seed", 3, "--json", "-"]
    found = [run(*options) for _ in range(2)]
    for ran, length in zip(found, (3, 5), strict=True):
        assert (ran.json["parameters"], ran.json["automatic"]) == ({"draft_length": length}, True)
        assert str(Generated.from_dict(ran.json, "")).startswith(f"pearl draft_length={length} (auto): 24 tokens")
        again = run(*options, "--draft-length", length)
        assert (again.json["tokens"], again.json["automatic"]) == (ran.json["tokens"], False)
        assert str(Generated.from_dict(again.json, "")).startswith(f"pearl draft_length={length}: 24 tokens")
        assert ran.err == again.err == ""
    assert found[0].json["tokens"] != found[1].json["tokens"]


@pytest.mark.parametrize(("strategy", "drafted"), [("autoregressive", 0), ("pearl", 24), ("speculative", 18)])
def test_drafted_tokens_look_different_on_a_terminal(
    run: Callable[..., Ran], models: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, drafted: int
) -> None:
    """The draft is the target, so every drafted token is accepted; of 3 + 1 in a speculative round, 3 are drafted."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    twins = ["--target", models / "target", "--draft", models / "target", "--lane", "inline"]
    length = [] if strategy == "autoregressive" else ["--draft-length", 3]
    options = [*twins, "--strategy", strategy, *length, "--max-new-tokens", 24, "--seed", 1, "--dtype", "float64"]
    ran = run("generate", "hello", *options, "--temperature", 1, "--top-k", 1, "--json", models / "terminal.json")
    text = json.loads((models / "terminal.json").read_text())["text"]
    shown = ran.out
    green = "".join(re.findall(r"\x1b\[32m([^\x1b]*)\x1b", shown))
    own = "".join(re.findall(r"\x1b\[1m([^\x1b]*)\x1b", shown))
    assert len(text) == len(green) + len(own) == 24
    assert len(green) == drafted
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in run("generate", "hello", *options).out


def test_the_report_holds_what_the_checkpoint_decided(run: Callable[..., Ran], models: Path, tmp_path: Path) -> None:
    """As `model.generate` decodes; options win, and the report says whose settings they were."""
    target = tmp_path / "target"
    shutil.copytree(models / "target", target)
    own = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "repetition_penalty": 1.2,
        "max_new_tokens": 5,
        "eos_token_id": [3],
    }
    (target / "generation_config.json").write_text(json.dumps(own))
    options = ["hello", "--target", target, "--draft", models / "draft", "--lane", "inline", "--seed", 1, "--json", "-"]
    ran = run("generate", *options)
    settings = ran.json["settings"]
    assert (settings["temperature"], settings["top_k"], settings["top_p"]) == (0.7, 50, 0.8)
    assert (settings["repetition_penalty"], settings["max_new_tokens"], settings["eos"]) == (1.2, 5, [3])
    assert settings["checkpoint"] == ["temperature", "top_k", "top_p", "repetition_penalty", "eos"]
    said = str(Generated.from_dict(ran.json, ""))
    assert "settings of the checkpoint: temperature 0.7, top_k 50, top_p 0.8, repetition_penalty 1.2" in said
    more = ["--temperature", 0, "--repetition-penalty", 1, "--max-new-tokens", 7, "--eos", "none"]
    ran = run("generate", *options, *more)
    settings = ran.json["settings"]
    assert (settings["temperature"], settings["top_p"], settings["max_new_tokens"], settings["eos"]) == (0, None, 7, [])
    assert settings["checkpoint"] == []
    assert "settings of the checkpoint" not in str(Generated.from_dict(ran.json, ""))
    with Pair.load(target, models / "draft", lane="inline") as pair:
        ids = pair.tokenizer("hello", return_tensors="pt")["input_ids"]  # type: ignore[misc]
        of: Any = pair.target
        plain = of.generate(ids, do_sample=False, repetition_penalty=1.0, max_new_tokens=7, eos_token_id=None)
    assert ran.json["tokens"] == plain[0, ids.shape[1] :].tolist()


def test_an_end_is_a_token_or_its_id(run: Callable[..., Ran], inline: list[str], models: Path) -> None:
    options = ["hello", *inline, "--draft-length", 2, "--max-new-tokens", 12, "--json", "-"]
    plain = run("generate", *options).json
    with Pair.load(models / "target") as pair:
        end = pair.tokenizer.convert_ids_to_tokens(plain["tokens"][4])  # type: ignore[union-attr]
    for told in (end, plain["tokens"][4]):
        ran = run("generate", *options, "--eos", told)
        assert ran.json["finished_by"] == "eos"
        assert ran.json["tokens"] == plain["tokens"][: plain["tokens"].index(plain["tokens"][4]) + 1]
    refused = run("generate", *options, "--eos", "nowhere")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--eos nowhere is no token: give one of the tokenizer's, or an id below" in refused.err
    assert "give none alone" in run("generate", *options, "--eos", "none", "--eos", 3).err


def test_an_interrupt_before_a_round_is_shown_loses_none_of_it(
    run: Callable[..., Ran], inline: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, rounds = Text.grown, 0

    def interrupted(self: Text, tokens: tuple[int, ...], *, final: bool) -> str:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise KeyboardInterrupt
        return grown(self, tokens, final=final)

    monkeypatch.setattr(Text, "grown", interrupted)
    target = tmp_path / "out.json"
    ran = run("generate", "hello", *inline, "--strategy", "autoregressive", "--seed", 1, "--json", target)
    report = json.loads(target.read_text())
    assert ran.code == 130
    assert report["finished_by"] is None
    assert len(report["tokens"]) == 3
    assert ran.out == report["text"] + "\n"


@pytest.mark.parametrize(("rule", "temperature", "lossy"), [("typical", 1, True), ("typical", 0, False), ("token", 1, False)])
def test_a_text_under_a_lossy_rule_says_so(
    run: Callable[..., Ran], inline: list[str], rule: str, temperature: int, lossy: bool
) -> None:
    options = ["--max-new-tokens", 4, "--temperature", temperature, "--verification", rule, "--draft-length", 2]
    assert ("LOSSY: this text has not the target's law" in run("generate", "hello", *inline, *options).err) is lossy
    assert run("generate", "hello", *inline, *options, "--json", "-").json["lossless_claimed"] is not lossy
