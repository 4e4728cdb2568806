"""The command line through its real entry point: what it prints, where, how it fails, and how it is interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints, entry_points, version
from pathlib import Path
from typing import Any

import pytest
import torch

from specdec import Pair, create, decode
from specdec.cli import main
from specdec.testing.models import byte_tokenizer, minuscule, resembling
from specdec.text import Text

ALPHABET = [chr(byte) for byte in range(33, 127)] + ["Ġ", "Ċ"]
"""ASCII in GPT-2's byte alphabet: a token is a character."""
COMMANDS = ("generate", "bench", "prove", "strategies")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Run the command line here, as the console script does."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()

    def run_here(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    yield run_here
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories: a target, drafts that fit, draws of other kinds that do not."""
    folder = tmp_path_factory.mktemp("models")
    target = minuscule(len(ALPHABET), seed=3, max_position_embeddings=40_000)
    broken = minuscule(len(ALPHABET), seed=3)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(torch.nan)
    small = minuscule(len(ALPHABET), seed=3, max_position_embeddings=32)
    kinds = {"target": target, "draft": resembling(target), "broken": broken, "small": small, "foreign": target}
    for name, model in kinds.items():
        model.save_pretrained(folder / name)
        words = ALPHABET[::-1] if name == "foreign" else ALPHABET
        byte_tokenizer(words).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def pair(models: Path) -> list[str]:
    return ["--target", str(models / "target"), "--draft", str(models / "draft")]


@pytest.fixture
def inline(pair: list[str]) -> list[str]:
    return [*pair, "--lane", "inline"]


# --- help, version, completion


def test_help_lists_every_command_and_shows_examples_without_loading_torch() -> None:
    script = (
        "import sys; from specdec.cli import main\n"
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


def with_entry_points(monkeypatch: pytest.MonkeyPatch, where: str, *more: EntryPoint) -> None:
    real = entry_points()
    every = EntryPoints([*(entry for group in real.groups for entry in real.select(group=group)), *more])
    monkeypatch.setattr(f"{where}.entry_points", lambda **wanted: every.select(**wanted))


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
        "specdec.cli",
        EntryPoint("hello", f"{__name__}:hello", group),
        EntryPoint("gone", "no_such_package:command", group),
    )
    assert run("hello", "world") == Ran(0, "hello world\n", "")
    page = run("--help").out
    assert "Greet somebody." in page
    assert "cannot be loaded" in page
    assert_one_line(run("gone", "--with", "1"), "gone", "reinstall")


# --- bad input: one line, the culprit and the remedy, exit code 2


def assert_one_line(ran: Ran, *parts: str) -> None:
    assert ran.code == 2, ran
    assert ran.out == ""
    assert re.fullmatch(r"specdec: [^\n]+\n", ran.err), ran.err
    for part in parts:
        assert part in ran.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("generate", ["prompt", "--prompt-file"]),
        ("generate hello --prompt-file x", ["prompt", "--prompt-file"]),
        ("generate --prompt-file {tmp}/absent", ["absent", "text file"]),
        ("generate hello --target {models}/absent", ["absent", "check the name"]),
        ("generate hello --target {models}/target --draft {models}/absent", ["absent", "check the name"]),
        ("generate hello --draft {models}/draft", ["--draft", "--target"]),
        ("generate hello --target {models}/target --draft {models}/foreign", ["foreign", "another tokenizer", "choose"]),
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
        ("generate hello --device nowhere", ["device nowhere", "cpu"]),
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
        ("bench --temperature -1", ["temperature -1", "give 0"]),
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
        ("profile --target shape:tiny-target --draft shape:tiny-draft --prompts x", ["tiny-draft", "leave --prompts out"]),
        ("prove pearl --verification synthetic:0.8", ["'synthetic:0.8'", "token, match, block"]),
        ("prove", ["nothing to prove", "--all"]),
        ("prove perl", ["'perl'", "did you mean pearl"]),
        ("prove pearl --pairs 0", ["0 pairs", "at least 1"]),
        ("prove pearl --set draft_length=0", ["draft length 0", "at least 1"]),
        ("strategies --json {tmp}/absent/x.json", ["absent/x.json", "writable folder"]),
        ("benhc", ["'benhc'", "did you mean bench"]),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Ran], models: Path, tmp_path: Path, arguments: str, parts: list[str]) -> None:
    typed = [part.format(models=models, tmp=tmp_path, long="x" * 40) for part in arguments.split()]
    assert_one_line(run(*typed), *parts)


def test_an_empty_prompt_is_refused(run: Callable[..., Ran], inline: list[str]) -> None:
    assert_one_line(run("generate", " \n", *inline), "prompt is empty", "at least one word")


def test_a_failed_run_keeps_what_the_json_file_held(run: Callable[..., Ran], models: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("precious")
    for path in (old, new):
        assert run("generate", "hello", "--target", models / "absent", "--json", path).code == 2
    assert old.read_text() == "precious"
    assert not new.exists()


# --- strategies


def test_strategies_as_json(run: Callable[..., Ran]) -> None:
    ran = run("strategies", "--json", "-")
    assert ran.json["format"] == "specdec.strategies/1"
    found = {item["name"]: item for item in ran.json["strategies"]}
    assert found.keys() >= {"autoregressive", "pearl", "prompt_lookup", "speculative"}
    assert found["pearl"]["parameters"] == {"draft_length": "auto"}
    assert found["prompt_lookup"]["parameters"] == {"draft_length": 8, "longest_match": 3}
    assert found["autoregressive"]["lossless"] is True
    assert all(item["description"].endswith(".") for item in found.values())
    assert "pearl" in ran.err  # the table, out of the JSON's way


# --- generate


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
    ran = run("generate", "hello", *options, "--top-k", 1, "--json", "-")  # the text goes to the error stream
    text = ran.json["text"]
    shown = ran.err.partition("\n\n")[0]
    green = "".join(re.findall(r"\x1b\[32m([^\x1b]*)\x1b", shown))
    own = "".join(re.findall(r"\x1b\[1m([^\x1b]*)\x1b", shown))
    assert len(text) == len(green) + len(own) == 24
    assert len(green) == drafted
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in run("generate", "hello", *options).out


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


# --- profile


@pytest.mark.parametrize(("lane", "company"), [("inline", "only one works at a time"), ("thread", "their seconds alone")])
def test_a_profile_is_shown_and_written(
    run: Callable[..., Ran], pair: list[str], tmp_path: Path, lane: str, company: str
) -> None:
    options = ("--lane", lane, "--repeats", 2, "--limit", 1, "--max-new-tokens", 4, "--json", tmp_path / "profile.json")
    ran = run("profile", *pair, *options)
    assert ran.code == 0
    assert company in next(line for line in ran.out.splitlines() if line.startswith("Together"))
    found = json.loads((tmp_path / "profile.json").read_text())
    assert {"in_turn", "together", "draft_start_seconds", "drafting_overhead_seconds", "acceptance"} <= found.keys()


# --- forced acceptance and shapes


def test_bench_of_shapes_says_that_it_is_not_text(run: Callable[..., Ran]) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    options = ["--strategy", "speculative", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 8, "--limit", 2]
    ran = run("bench", *models, *options, "--verification", "synthetic:0.8", "--prompt-tokens", 20, "--json", "-")
    mark = "synthetic acceptance 0.8: not text"
    assert ran.json["settings"]["synthetic"] == mark
    assert ran.json["settings"]["prompts_file"] == "made up, 20 tokens each"
    assert ran.json["settings"]["prompts"] == 2
    assert ran.json["pair"]["target"] == "shape:tiny-target"
    assert f"Greedy (temperature 0), {mark}" in ran.err
    assert f"Sampled (temperature 1), {mark}" in ran.err
    assert "acceptance 80 %" not in ran.err
    assert "outputs" not in ran.err.partition("tok/s:")[0]  # nothing is said of greedy outputs, which are not comparable


def test_bench_of_text_says_nothing_of_the_kind(run: Callable[..., Ran], inline: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n")
    options = ["--strategy", "speculative", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 8, "--temperature", 1]
    ran = run("bench", *inline, *options, "--prompts", tmp_path / "prompts.txt", "--json", "-")
    assert {ran.json["settings"]["synthetic"], *(row["synthetic"] for row in ran.json["results"])} == {""}
    assert "synthetic" not in ran.err


def test_bench_runs_transformers_own_forwards_if_asked_to(run: Callable[..., Ran]) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    options = ["--strategy", "pearl", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 4, "--limit", 1]
    options += ["--verification", "synthetic:0.8", "--temperature", 0, "--prompt-tokens", 20, "--json", "-"]
    fused, eager = run("bench", *models, *options), run("bench", *models, *options, "--eager")
    assert fused.json["settings"]["why_eager"] == {"target": None, "draft": None}
    assert eager.json["settings"]["why_eager"] == dict.fromkeys(("target", "draft"), "eager forwards were asked for")
    assert ["eager forwards" in " ".join(ran.err.split()) for ran in (fused, eager)] == [False, True]  # a line may be wrapped


def test_profile_of_shapes_is_for_a_simulator_that_is_given_the_acceptance(run: Callable[..., Ran], tmp_path: Path) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    assert run("profile", *models, "--repeats", 2, "--json", tmp_path / "profile.json").code == 0
    simulate = ["simulate", "--strategy", "pearl", "--profile", tmp_path / "profile.json", "--tokens", 50]
    assert_one_line(run(*simulate), "no acceptance", "--acceptance")
    assert run(*simulate, "--acceptance", 0.8, "--draft-length", 2).code == 0


# --- prove


WRONG = """
from dataclasses import dataclass
from typing import ClassVar

from specdec import Committed, DecodingStrategy, Draft, Guess, Verdict

@dataclass(frozen=True)
class Leaky(DecodingStrategy):
    name: ClassVar[str] = "leaky"
    draft_length: int = 1

    def step(self, state):
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        return state.then(Verdict(Committed(guess.tokens), len(guess), True))

@dataclass(frozen=True)
class Honest(Leaky):
    name: ClassVar[str] = "honest"
    lossless: ClassVar[bool] = False
"""
"""Both commit guesses that nobody verified; only the first claims to be lossless."""


@pytest.fixture
def wrong_strategies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrong_strategies.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_strategies", raising=False)
    wrong = [EntryPoint(name, f"wrong_strategies:{name.title()}", "specdec.strategies") for name in ("leaky", "honest")]
    with_entry_points(monkeypatch, "specdec.plugins", *wrong)


def test_proofs_as_json(run: Callable[..., Ran]) -> None:
    ran = run("prove", "pearl", "autoregressive", "--pairs", 12, "--json", "-")
    keys = ["strategy", "parameters", "verification", "lossless_claimed", "pairs", "max_total_variation", "exact", "seconds"]
    rows = ran.json["proofs"]
    assert ran.code == 0
    assert (ran.json["format"], ran.json["interrupted"]) == ("specdec.prove/1", False)
    assert all(list(row) == [*keys, "counterexample"] for row in rows)
    assert [(row["strategy"], row["parameters"], row["verification"]) for row in rows] == [
        *(("pearl", {"draft_length": n}, rule) for n in (1, 2, 3, 4) for rule in ("token", "match", "block")),
        *(("autoregressive", {}, rule) for rule in ("token", "match", "block")),
    ]
    assert all(row["exact"] is True and row["max_total_variation"] == 0 and row["pairs"] == 12 for row in rows)


def test_chosen_parameters_and_rules_are_proved(run: Callable[..., Ran]) -> None:
    ran = run("prove", "speculative", "--set", "draft_length=2", "--verification", "block", "--pairs", 6, "--json", "-")
    assert [(row["parameters"], row["verification"]) for row in ran.json["proofs"]] == [({"draft_length": 2}, "block")]


@pytest.mark.usefixtures("wrong_strategies")
def test_a_refuted_claim_exits_with_1_and_a_counterexample(run: Callable[..., Ran]) -> None:
    ran = run("prove", "leaky", "--verification", "token", "--pairs", 24)
    assert ran.code == 1
    assert "is not lossless" in ran.out
    assert "history: p | q" in ran.out
    assert "4 claim(s) refuted" in ran.out


@pytest.mark.usefixtures("wrong_strategies")
def test_a_strategy_without_the_claim_is_not_refuted(run: Callable[..., Ran]) -> None:
    ran = run("prove", "honest", "--verification", "token", "--pairs", 24, "--json", "-")
    assert ran.code == 0
    rows = ran.json["proofs"]
    assert all(not row["exact"] and row["max_total_variation"] > 0 and not row["lossless_claimed"] for row in rows)


# --- a real process: pipes and interrupts

SPECDEC = [sys.executable, "-W", "error", "-c", "import sys; from specdec.cli import main; sys.exit(main())"]


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen([*SPECDEC, "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def interrupted(arguments: list[str], ready: Callable[[str, str], bool]) -> Ran:
    """Run a command with the error stream on a terminal, send it Ctrl-C once it is `ready`, and see its workers gone."""
    terminal, ours = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([*SPECDEC, *arguments], stdout=subprocess.PIPE, stderr=ours, env=environment)
    os.close(ours)
    assert process.stdout is not None
    streams = {process.stdout.fileno(): b"", terminal: b""}
    workers: list[int] = []
    deadline = time.monotonic() + 90
    try:
        unfinished = [*streams]
        while unfinished:
            assert time.monotonic() < deadline, streams
            for stream in select.select(unfinished, [], [], 0.1)[0]:
                new = read(stream)
                streams[stream] += new
                if not new:
                    unfinished.remove(stream)
            out, err = (streams[stream].decode(errors="replace") for stream in streams)
            if not workers and ready(out, err):
                workers = children(process.pid)
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(terminal)
    assert workers
    while not all(gone(worker) for worker in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)
    assert "Traceback" not in err
    return Ran(code, out, err)


def read(stream: int) -> bytes:
    try:
        return os.read(stream, 4096)
    except OSError:  # what a terminal says at its end
        return b""


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for workers in /proc")


@needs_proc
def test_interrupted_generate_keeps_the_text(pair: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--draft-length", "2", "--max-new-tokens", "39000", "--lane", "process", "--json", str(target)]
    ran = interrupted(["generate", "hello", *pair, *options], lambda out, err: len(out) >= 40)
    report = json.loads(target.read_text())
    assert ran.code == 130
    assert report["finished_by"] is None
    assert 40 <= len(report["tokens"]) < 39000
    assert ran.out == report["text"] + "\n"
    assert f"{len(report['tokens'])} tokens (interrupted)" in ran.err


@needs_proc
def test_interrupted_bench_shows_what_was_measured(pair: list[str], tmp_path: Path) -> None:
    target, prompts = tmp_path / "out.json", tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    options = [
        "--strategy",
        "speculative",
        "--draft-lengths",
        "1",
        "--temperature",
        "0",
        "--repeats",
        "9999",
        "--lane",
        "process",
    ]
    arguments = ["bench", *pair, *options, "--seconds", "999", "--max-new-tokens", "4", "--prompts", str(prompts)]
    ran = interrupted([*arguments, "--json", str(target)], lambda out, err: bool(re.search(r"repeat ([3-9]|\d\d+) of", err)))
    report = json.loads(target.read_text())
    assert ran.code == 130
    assert report["settings"]["interrupted"] is True
    assert 2 <= report["settings"]["repeats"] < 9999
    assert [row["strategy"] for row in report["results"]] == ["autoregressive", "speculative"]
    assert "Greedy" in ran.out


@needs_proc
def test_interrupted_prove_shows_what_was_proved() -> None:
    ran = interrupted(
        ["prove", "pearl", "speculative", "--set", "draft_length=1", "--pairs", "3000"], lambda out, err: "1/6" in err
    )
    assert ran.code == 130
    assert re.search(r"(\d+) of \1 laws equal", ran.out)
