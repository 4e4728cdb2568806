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

from fuzz_values import APART, BASES, EVERY, HINTS, NUMBERS, PROFILE, TEXTS, WEIGHTS


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
    from specdec.testing.models import byte_tokenizer, model, resembling

    words = [chr(byte) for byte in range(33, 127)] + ["\u0120", "\u010a"]
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    target = model("llama", len(words), seed=3, max_position_embeddings=64, **sizes)
    for name, made in {"target": target, "draft": resembling(target)}.items():
        made.save_pretrained(folder / name)
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
    found = [
        b"",
        b"\x00",
        text.encode()[: len(text) // 2],
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
        b"\xe9" + text.encode(),
    ]
    found += [b"[" * 100_000, b"null", b"[]", b"{}", b'"x"', b"NaN", text.replace("\n", "\r\n").encode(), b"\n\n", 5000 * b"9"]
    for _ in range(12):  # one word or number is another one
        words = text.split('"') if dice.random() < 0.3 else text.replace(",", " , ").replace(":", " : ").split(" ")
        words[dice.randrange(len(words))] = dice.choice((*NUMBERS, *TEXTS[:8], "null", "-1", "[]", "1e999", "\\ud800"))
        found.append(" ".join(words).encode(errors="replace"))
    return found


def break_checkpoints(folder: Path, change: str, dice: random.Random) -> None:
    """Copies of the target in which one file is gone, empty, cut short or spoiled."""
    whole = (folder / "target" / change).read_bytes()
    spoiled = [
        None,
        b"",
        whole[: len(whole) // 2],
        b"version https://git-lfs.github.com/spec/v1\n",
        whole[:100] + b"\xff" + whole[101:],
    ]
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


SCRIPT = "import sys; from specdec_command import main; sys.exit(main())"
REDIRECTIONS = {
    "closed out": ">&-",
    "full out": ">/dev/full",
    "closed err": "2>&-",
    "full err": "2>/dev/full",
    "closed in": "<&-",
}


def run_apart(case: Case, patience: float) -> tuple[int | str, str, str]:
    """Run a case in an interpreter of its own, in the odd way that it names."""
    arguments = [
        os.fsencode(argument.encode(errors="surrogateescape").decode(errors="surrogateescape"))
        if "\ud800" not in argument
        else b"?"
        for argument in case.arguments
    ]
    if case.apart == "bytes":
        arguments.append(b"caf\xe9")
    command: list[str | bytes] = [
        sys.executable,
        "-c",
        SCRIPT,
        *(argument.replace(b"\0", b"")[:100_000] for argument in arguments),
    ]
    if case.apart in REDIRECTIONS:
        command = ["sh", "-c", f'exec "$@" {REDIRECTIONS[case.apart]}', "sh", *command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"} if case.apart == "ascii" else {}
    )
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
