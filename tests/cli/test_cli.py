"""The command line as a whole: help, version, plug-ins, and one line for each bad input."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from command_line import Ran, assert_one_line, with_entry_points

from specdec.cli.console import Terminal

COMMANDS = ("generate", "bench", "prove", "strategies")


def test_help_and_the_report_of_a_benchmark_need_no_torch() -> None:
    script = (
        "import sys; from specdec.bench import BenchReport; from specdec.cli import main\n"
        f"for name in {COMMANDS}: assert main([name, '--help']) == 0\n"
        "assert main(['--help']) == 0; assert main([]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Examples:") == len(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"Usage: specdec {name} ", done.stdout)
        assert re.search(rf"(?m)^. {name} +\w", done.stdout)
    assert "--install-completion" in done.stdout


def test_version(run: Callable[..., Ran]) -> None:
    assert run("--version") == Ran(0, f"specdec {version('pearl-specdec')}\n", "")


def hello(name: str) -> None:
    """Greet somebody.

    Examples:
      specdec hello world
    """
    print(f"hello {name}")


def test_commands_of_other_packages_are_found_and_broken_ones_leave_the_rest_alone(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "specdec.commands"
    with_entry_points(
        monkeypatch,
        "specdec.plugins",
        EntryPoint("hello", f"{__name__}:hello", group),
        EntryPoint("gone", "no_such_package:command", group),
    )
    assert run("hello", "world") == Ran(0, "hello world\n", "")
    page = run("--help").out
    assert "Greet somebody." in page
    assert "cannot be used; run it to see why" in page
    assert_one_line(run("gone", "--with", "1"), "gone", "reinstall")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("generate", ["prompt", "--prompt-file"]),
        ("generate hello --prompt-file x", ["prompt", "--prompt-file"]),
        ("generate --prompt-file {tmp}/absent", ["absent", "text file"]),
        ("generate hello --target {models}/absent", ["absent", "check the name"]),
        ("generate hello --target {models}/target --draft {models}/absent", ["absent", "check the name"]),
        ("generate hello --draft {models}/draft", ["--draft", "--target"]),
        (
            "generate hello --target {models}/target --draft {models}/foreign --vocabularies same",
            ["foreign", "another tokenizer"],
        ),
        ("generate hello --target {models}/target", ["draft model", "give one"]),
        ("generate hello --target {models}/broken --draft {models}/draft --lane inline --draft-length 2", ["NaN", "weights"]),
        ("generate {long} --target {models}/small --draft {models}/draft", ["40 tokens", "context holds 32", "shorten"]),
        ("generate hello --strategy perl", ["'perl'", "did you mean pearl"]),
        ("generate hello --strategy autoregressive --draft-length 2", ["autoregressive", "draft_length"]),
        ("generate hello --draft-length 0", ["draft length 0", "at least 1"]),
        ("generate hello --draft-length many", ["draft length 'many'", "at least 1"]),
        ("generate hello --set length", ["--set", "NAME=VALUE"]),
        ("generate hello --set colour=3", ["'colour'", "draft_length"]),
        ("generate hello --temperature -1", ["temperature -1", "give 0"]),
        ("generate hello --top-p 1.5", ["top_p 1.5", "(0, 1]"]),
        ("generate hello --temperature 0 --top-k 5 --target {models}/absent", ["--top-k 5", "temperature 0", "drop it"]),
        ("generate hello --temperature 0 --top-p 0.9 --target {models}/absent", ["--top-p 0.9", "temperature 0", "drop it"]),
        ("generate hello --temperature 0 --min-p 0.1 --target {models}/absent", ["--min-p 0.1", "temperature 0", "drop it"]),
        ("generate hello --draft-length 2 --set draft_length=3", ["--draft-length", "--set draft_length", "give one"]),
        ("generate hello --device nowhere", ["device nowhere", "cpu"]),
        ("generate hello --target {models}/target --draft-device cpu", ["--draft-device cpu", "give --draft"]),
        ("generate hello --target {models}/target --lane thread", ["--lane thread", "give --draft"]),
        (
            "generate hello --max-new-tokens 0 --target {models}/target --draft {models}/draft",
            ["max_new_tokens 0", "at least 1"],
        ),
        ("generate hello --max-new-tokens many", ["'--max-new-tokens'", "specdec generate --help"]),
        ("generate hello --lane road", ["'--lane'", "'process'"]),
        ("generate hello --colour", ["--colour", "specdec generate --help"]),
        ("bench --json {tmp}/absent/x.json --target {models}/absent", ["absent/x.json", "writable folder"]),
        ("bench --json {tmp} --target {models}/absent", ["Is a directory", "give a path"]),
        ("bench --prompts {tmp}/absent", ["absent", "No such file"]),
        ("bench --strategy perl", ["'perl'", "did you mean pearl"]),
        ("bench --draft-lengths 0", ["draft length '0'", "1-8"]),
        ("bench --draft-lengths one", ["draft length 'one'", "1-8"]),
        ("bench --draft-lengths 4-2", ["draft length '4-2'", "1-8"]),
        ("bench --draft-lengths 2 --strategy autoregressive", ["--draft-lengths 2", "autoregressive", "leave it out"]),
        ("bench --temperature -1", ["temperature -1", "give 0"]),
        ("bench --theme dark --target {models}/absent", ["--theme dark", "give --output"]),
        ("bench --repeats 0", ["'--repeats'", "specdec bench --help"]),
        ("bench --target {models}/small --draft {models}/draft --lane inline", ["prompt 1", "context holds 32", "shorten"]),
        ("bench --target shape:tiny-target --draft shape:tiny-draft", ["shape:tiny-target", "--verification synthetic:0.8"]),
        ("bench --target {models}/target --draft shape:tiny-draft", ["shape:tiny-draft", "--verification synthetic:0.8"]),
        (
            "bench --target shape:tiny --draft shape:tiny-draft --verification synthetic:0.8",
            ["unknown shape 'tiny'", "tiny-target, tiny-draft"],
        ),
        (
            "bench --target shape:tiny-target --verification synthetic:0.8 --prompts {tmp}/absent",
            ["absent", "no tokenizer", "--prompt-tokens"],
        ),
        ("bench --prompt-tokens 64 --target {models}/absent", ["--prompt-tokens", "--prompts"]),
        ("bench --verification synthetic:8 --target {models}/absent", ["synthetic acceptance 8", "from 0 to 1"]),
        ("bench --verification synthetic:0.8 --against hf --target {models}/absent", ["--against hf", "synthetic:0.8"]),
        ("bench --verification tokens --target {models}/absent", ["'tokens'", "token, match, block"]),
        ("generate hello --verification synthetic:0.8 --target {models}/absent", ["synthetic:0.8", "specdec bench"]),
        ("generate hello --target shape:tiny-target --draft shape:tiny-draft", ["shape:tiny-target", "specdec bench"]),
        (
            "profile --target shape:tiny-target --draft shape:tiny-draft --prompts x",
            ["--prompts", "tiny-draft", "leave it out"],
        ),
        ("profile --target shape:tiny-target --draft shape:tiny-draft --limit 2", ["--limit", "tiny-draft", "leave it out"]),
        (
            "profile --target shape:tiny-target --draft shape:tiny-draft --max-new-tokens 2",
            ["--max-new-tokens", "leave it out"],
        ),
        ("profile --target {models}/target", ["draft model", "give --draft"]),
        ("profile --target {models}/target --lane process", ["--lane process", "give --draft"]),
        ("profile --draft {models}/draft", ["--draft", "give --target"]),
        ("prove pearl --verification synthetic:0.8", ["synthetic:0.8", "forces acceptance", "name a rule"]),
        ("prove", ["nothing to prove", "--all"]),
        ("prove perl", ["'perl'", "did you mean pearl"]),
        ("prove pearl --pairs 0", ["pairs 0", "at least 1"]),
        ("prove pearl --set draft_length=0", ["draft length 0", "at least 1"]),
        ("strategies --json {tmp}/absent/x.json", ["absent/x.json", "writable folder"]),
        ("benhc", ["'benhc'", "did you mean bench"]),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Ran], models: Path, tmp_path: Path, arguments: str, parts: list[str]) -> None:
    typed = [part.format(models=models, tmp=tmp_path, long="x" * 40) for part in arguments.split()]
    assert_one_line(run(*typed), *parts)


def test_an_empty_prompt_is_refused(run: Callable[..., Ran], inline: list[str]) -> None:
    assert_one_line(run("generate", "", *inline), "prompt is empty", "at least one word")


def test_a_failed_run_keeps_what_the_json_file_held(run: Callable[..., Ran], models: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("precious")
    for path in (old, new):
        assert run("generate", "hello", "--target", models / "absent", "--json", path).code == 2
    assert old.read_text() == "precious"
    assert not new.exists()


def test_strategies_as_json(run: Callable[..., Ran]) -> None:
    ran = run("strategies", "--json", "-")
    assert ran.json["format"] == "specdec.strategies/1"
    found = {item["name"]: item for item in ran.json["strategies"]}
    assert found.keys() >= {"autoregressive", "pearl", "prompt_lookup", "speculative"}
    assert found["pearl"]["parameters"] == {"draft_length": "auto"}
    assert found["prompt_lookup"]["parameters"] == {"draft_length": 8, "longest_match": 3}
    assert found["autoregressive"]["lossless"] is True
    assert all(item["description"].endswith(".") for item in found.values())
    assert ran.err == ""  # one thing is printed


@pytest.mark.parametrize("twice", [("--draft-length", "2", "--draft-length", "3"), ("--chat", "--chat")])
def test_an_option_that_takes_one_value_is_given_once(run: Callable[..., Ran], twice: tuple[str, ...]) -> None:
    assert_one_line(run("generate", "hi", *twice), f"{twice[0]} is given 2 times", "give it once")


def test_a_log_is_told_now_and_then_how_far_long_work_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 40))  # seconds: each step takes 40, so every second one is said
    monkeypatch.setattr("specdec.cli.console.time.monotonic", lambda: next(clock))
    assert list(Terminal().follow(["a", "b", "[c]", "d"], 4)) == ["a", "b", "[c]", "d"]
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["1 of 4 steps done in 1 min; now: b", "3 of 4 steps done in 3 min; now: d"]
    assert shown.out == ""
