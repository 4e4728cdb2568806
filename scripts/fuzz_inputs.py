"""What `fuzz_command_line.py` feeds: bad values for every option of every command, broken files, broken checkpoints."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

HUGE = "1" + 30 * "0"
NUMBERS = ["0", "-0", "-1", "1", "2", "3", "0.5", "1e308", "-1e308", "1e-320", "1e-9", "nan", "inf", "-inf", HUGE, f"-{HUGE}"]
NUMBERS += [5000 * "9", "65536", "0x10", "1_000", "\u0663", "\u00bd", "1e", "+1", "1.5", "9999999999", "1e400", "2147483648"]
TEXTS = ["", " ", "\t", "\n", 300 * "x", 100_000 * "x", "/", ".", "..", "-", "--", "\x1b[31m", "\u00e9", "\u65e5\u672c", "[red]"]
TEXTS += ["[/]", "{x}", "%s", "=", "a=b=c", "NAME=", "/dev/null", "/dev/full", "/dev/zero/x", "caf\udce9", "\ud800", "a,b", ",", ":"]
TEXTS += ["auto", "cpu", "cuda", "cuda:99", "meta", "float64", "none", "shape:", "shape:tiny-target", "shape:x", "synthetic:0.8"]
TIMES = ["1ms", "5ms", "0ms", "-1ms", "1e308s", "1e-320ms", "1e-300s", "5", "nanms", "infs", "1e400s", 400 * "9" + "s", ".ms", "1 ms"]
ACCEPTANCES = ["0.8", "1", "0", "1.1", "-0.1", "80%", "1e308%", "markov:0.8,0.6", "markov:", "markov:nan,1", "markov:1,1"]
ACCEPTANCES += ["markov:0,0", "run:0", "run:1", "run:1e308", "run:inf", "run:3", "0.9,0.8,nan", "0.9,0.8", "rate", "recorded", "0,0,0"]
LAWS = ["poisson:1/s", "poisson:1e308/s", "poisson:1e-320/s", "poisson:0", "gamma:5/s,cv=1e308", "gamma:5/s,cv=0", "gamma:5,cv=2"]
SIZES = ["512", "512,cv=0.5", "1e308", "1e-320", "512,cv=1e308", "1e9", "5,cv=1e-320"]
LISTS = ["1", "1-3", "1-1000000000000", "1,2,3", "1-", "-1", "0-1", "3-1", "1-1000", "1,,2"]
WINDOWS = ["4=5.5ms", "0=1ms", "x=1ms", f"{HUGE}=1ms", "4=1e308s", "2=1e-320s", "4="]
SETTINGS = ["draft_length=2", "draft_length=1e308", f"draft_length={HUGE}", "draft_length=nan", "longest_match=0", "colour=3"]
SETTINGS += [f"most_drafted={HUGE}", "most_drafted=3", "draft_length=true", "=", "draft_length=1000", "draft_length=-0"]
PAIRS = ["1.2,1.5", "1e308,1", "0,0", "nan,nan", "1", "0.1", "1e308", "1,1,1"]
HINTS = {
    "step": TIMES,
    "network": TIMES,
    "overhead": TIMES,
    "objective": TIMES,
    "acceptance": ACCEPTANCES,
    "arrivals": LAWS,
    "tokens": SIZES + NUMBERS,
    "lengths": LISTS,
    "window": WINDOWS,
    "--set": SETTINGS,
    "together": PAIRS,
    "jitter": PAIRS,
    "strategy": ["pearl", "speculative", "elastic", "autoregressive", "prompt_lookup", "perl"],
    "gpu": ["H200", "A100", "h100", "x"],
}
"""Values that nearly fit, by a part of an option's name."""

SYSTEM = ["--acceptance", "0.8", "--draft-step", "1ms", "--target-step", "5ms"]
WITH_PROFILE = ["--profile", "good.json"]
WITH_GPU = ["--acceptance", "0.8", "--gpu", "H200", "--target-config", "target/config.json", "--draft-config", "draft/config.json"]
PAIR = ["--target", "target", "--draft", "draft", "--lane", "inline"]
SERVING = ["--arrivals", "poisson:2/s", "--requests", "5", "--output-tokens", "8", "--input-tokens", "4"]
FROM_TRACE = ["--trace", "good.csv"]
BENCH = ["--limit", "1", "--max-new-tokens", "2", "--repeats", "1", "--seconds", "0.1", "--temperature", "0"]
BASES: dict[str, list[list[str]]] = {
    "generate": [["hello", *PAIR, "--max-new-tokens", "3", "--draft-length", "2"], ["-", *PAIR, "--max-new-tokens", "3"]],
    "bench": [[*PAIR, *BENCH, "--strategy", "speculative", "--draft-lengths", "1"]],
    "prove": [["speculative", "--set", "draft_length=1", "--pairs", "1", "--verification", "token"]],
    "profile": [[*PAIR, "--limit", "1", "--max-new-tokens", "1", "--repeats", "2"]],
    "simulate": [
        [*system, "--strategy", "pearl", "--draft-length", "2", "--tokens", "50", *load]
        for system in (SYSTEM, WITH_PROFILE, WITH_GPU)
        for load in ([], [], SERVING, FROM_TRACE)
    ],
    "tune": [[*system, "--tokens", "0", "--draft-lengths", "1-2"] for system in (SYSTEM, WITH_PROFILE)],
    "timeline": [[*system, "--rounds", "2"] for system in (SYSTEM, WITH_PROFILE, WITH_GPU)],
    "validate": [["--no-measure"]],
}
"""Command lines that work and are quick; each case spoils one."""
WEIGHTS = {"generate": 25, "bench": 8, "prove": 1, "profile": 3, "simulate": 30, "tune": 8, "timeline": 20, "validate": 6}
APART = ["closed out", "full out", "closed err", "full err", "closed in", "interrupt", "interrupt", "ascii", "bytes", "process"]
EVERY = 100
"""One case in so many runs in an interpreter of its own."""


@dataclass(frozen=True)
class Case:
    """A command line, what is typed to it, and, for an interpreter of its own, what is odd there."""

    arguments: list[str]
    typed: bytes
    apart: str = ""
    seconds: float = 0.0


@cache
def options_of(name: str) -> list[Any]:
    """The parameters of a command, as its own parser knows them."""
    from typer.main import get_command

    from specdec.cli import app

    command: Any = get_command(app)
    return command.get_command(command.make_context("specdec", [name], resilient_parsing=True), name).params


def cases_of(folder: Path, seed: int, number: int) -> Case:
    """The case of that number; the same for the same seed."""
    dice = random.Random(f"{seed}/{number}")
    files = sorted(path.name for path in folder.iterdir() if path.suffix not in (".in", ".out", ".err"))
    names = sorted({*WEIGHTS, *commands()})
    [name] = dice.choices(names, [WEIGHTS.get(name, 2) for name in names])
    arguments = list(dice.choice(BASES.get(name, [[]])))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        spoil(arguments, options_of(name), files, dice)
    typed = dice.choice((b"hello", b"", b"caf\xe9", b"\xff\xfe\x00", "日本\n".encode(), b"a\r\nb"))
    apart = dice.choice(APART) if number % EVERY == 0 else ""
    if apart == "process":
        arguments = [*BASES["generate"][0], "--lane", "process"]
        name = "generate"
    return Case([name, *arguments], typed, apart, dice.uniform(0.0, 2.5))


@cache
def commands() -> tuple[str, ...]:
    from specdec.cli import COMMANDS

    return tuple(COMMANDS.names())


def spoil(arguments: list[str], options: Sequence[Any], files: Sequence[str], dice: random.Random) -> None:
    """Change a command line in one place."""
    kind = dice.random()
    if kind < 0.04:
        arguments.insert(dice.randint(0, len(arguments)), dice.choice((*TEXTS, *NUMBERS, "--colour", "-z", "--json", *files)))
    elif kind < 0.08 and arguments:
        del arguments[dice.randrange(len(arguments))]
    elif kind < 0.10:
        arguments += arguments
    else:
        option = dice.choice(options)
        text = value_of(option, files, dice)
        if option.param_type_name == "argument":
            arguments.insert(0, text)
            return
        flag = dice.choice([*option.opts, *option.secondary_opts])
        spelled = [flag] if getattr(option, "is_flag", False) else [f"{flag}={text}"] if dice.random() < 0.2 else [flag, text]
        if flag in arguments[:-1] and not option.multiple:
            at = arguments.index(flag)
            del arguments[at : at + len(spelled)]
        arguments += spelled


def value_of(option: Any, files: Sequence[str], dice: random.Random) -> str:
    """A value for an option: one that nearly fits, a file, a number, or any text."""
    name = max(option.opts, key=len)
    near = [values for part, values in HINTS.items() if part in name]
    kind = option.type_descriptor.annotation
    pools: list[Sequence[str]] = [NUMBERS, TEXTS, *near, *near, *near]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        pools.append([choice.value for choice in kind])
    if option.metavar == "FILE" or any(part in name for part in ("target", "draft", "trace", "published")):
        pools += [files] * 4
    if name in ("--output", "--json"):
        pools += [["out.svg", "out.json", "out.html", "absent/x.json", "target", "-", 300 * "x" + ".svg"]] * 3
    return dice.choice(dice.choice(pools))


def make_files(folder: Path) -> None:
    """Tiny checkpoints and small files that are right, and many that are broken, each in its own way."""
    here = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(here / "tests"))
    from tiny_models import minuscule

    from specdec.testing.models import byte_tokenizer, resembling

    words = [chr(byte) for byte in range(33, 127)] + ["\u0120", "\u010a"]
    target = minuscule(len(words), seed=3, max_position_embeddings=64)
    for name, model in {"target": target, "draft": resembling(target)}.items():
        model.save_pretrained(folder / name)
        byte_tokenizer(words).save_pretrained(folder / name)
    good = {
        "good.json": json.dumps(PROFILE),
        "good.csv": "timestamp,input_length,output_length\n0,4,8\n1,5,9\n",
        "good.jsonl": '{"timestamp": 0, "input_length": 4, "output_length": 8}\n' * 3,
        "prompts.jsonl": '{"prompt": "hello"}\n{"question": "why"}\n{"turns": ["a", "b"]}\n',
        "prompts.txt": "hello\nthere\n",
        "published.csv": (here / "sim/data/nano_pearl_h200_bs1.csv").read_text(),
        "bench.json": next((here / "benchmarks/results").glob("*_bench_*.json")).read_text(),
        "config.json": (folder / "target/config.json").read_text(),
    }
    for name, text in good.items():
        (folder / name).write_text(text)
        for number, broken in enumerate(broken_texts(text, random.Random(name))):
            (folder / f"{number}-{name}").write_bytes(broken)
    (folder / "prompts.txt.gz").write_bytes(gzip.compress(b"hello\n"))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"hello\n")[:-6])
    (folder / "no.txt.gz").write_bytes(b"hello")
    for number, change in enumerate(("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")):
        break_checkpoints(folder, change, random.Random(number))


def broken_texts(text: str, dice: random.Random) -> list[bytes]:
    """The text, spoiled in many ways."""
    found = [b"", b"\x00", text.encode()[: len(text) // 2], b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), b"\xe9" + text.encode()]
    found += [b"[" * 100_000, b"null", b"[]", b"{}", b'"x"', b"NaN", text.replace("\n", "\r\n").encode(), b"\n\n", 5000 * b"9"]
    for _ in range(12):  # one word or number is another one
        words = text.split('"') if dice.random() < 0.3 else text.replace(",", " , ").replace(":", " : ").split(" ")
        words[dice.randrange(len(words))] = dice.choice((*NUMBERS, *TEXTS[:8], "null", "-1", "[]", "1e999", "\\ud800"))
        found.append(" ".join(words).encode(errors="replace"))
    return found


def break_checkpoints(folder: Path, change: str, dice: random.Random) -> None:
    """Copies of the target in which one file is gone, empty, cut short or spoiled."""
    whole = (folder / "target" / change).read_bytes()
    spoiled = [None, b"", whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n", whole[:100] + b"\xff" + whole[101:]]
    if change.endswith("json"):
        spoiled += dice.sample(broken_texts(whole.decode(), dice), 10)
        kinds = ["t5", "mamba", "bert", "llama4", "nothing", "rwkv"]
        spoiled += [whole.replace(b'"llama"', f'"{kind}"'.encode()) for kind in kinds if change == "config.json"]
    for number, content in enumerate(spoiled):
        copy = folder / f"model-{change.partition('.')[0]}-{number}"
        shutil.copytree(folder / "target", copy)
        (copy / change).unlink()
        if content is not None:
            (copy / change).write_bytes(content)


PROFILE: dict[str, Any] = {
    "target_seconds": [{"width": width, "batch": 1, "context": 64, "mean": 5e-3, "cv": 0.05} for width in (1, 4, 8)],
    "draft_seconds": [{"batch": 1, "context": 64, "mean": 1e-3, "cv": 0.1}],
    "draft_start_seconds": 5e-4,
    "in_turn": {"target_factor": 1.2, "draft_factor": 1.4},
    "together": {"target_factor": 1.1, "draft_factor": 1.3},
    "round_overhead_seconds": 2e-4,
    "drafting_overhead_seconds": 3e-4,
    "acceptance": {"rate": 0.7, "run_lengths": {"0": 30, "1": 20, "5": 10}, "by_file": {}},
}

SCRIPT = "import sys; from specdec_command import main; sys.exit(main())"
REDIRECTIONS = {"closed out": ">&-", "full out": ">/dev/full", "closed err": "2>&-", "full err": "2>/dev/full", "closed in": "<&-"}


def run_apart(case: Case, patience: float) -> tuple[int | str, str, str]:
    """Run a case in an interpreter of its own, in the odd way that it names."""
    arguments = [os.fsencode(argument.encode(errors="surrogateescape").decode(errors="surrogateescape")) if "\ud800" not in argument else b"?" for argument in case.arguments]
    if case.apart == "bytes":
        arguments.append(b"caf\xe9")
    command: list[str | bytes] = [sys.executable, "-c", SCRIPT, *(argument.replace(b"\0", b"")[:100_000] for argument in arguments)]
    if case.apart in REDIRECTIONS:
        command = ["sh", "-c", f'exec "$@" {REDIRECTIONS[case.apart]}', "sh", *command]
    environment = {**os.environ} | ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"} if case.apart == "ascii" else {})
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    if case.apart == "interrupt":
        time.sleep(case.seconds)
        process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(case.typed, timeout=patience)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return "a hang", out.decode(errors="replace"), err.decode(errors="replace")
    code = 130 if process.returncode == -signal.SIGINT else process.returncode
    told = err.decode(errors="replace")
    if case.apart == "interrupt" and "<string>" not in told:  # Python itself was still starting
        told = told.replace("Traceback", "")
    if case.apart in ("closed err", "full err") and code == 2:
        told = "specdec: nobody can read it"
    return code, out.decode(errors="replace"), told
