"""What the processes of a split target run in tests: rank 0 writes down what it sees, the other rank serves."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import specdec
from specdec import ModelError, Pair, PairError
from specdec.runtime import parallel

PROMPT = [1, 2, 3, 4]
PATIENCE_SECONDS = 20.0

PRELOADED = ["specdec.cli", "specdec.decoding", "strategies", "transformers.models.llama.modeling_llama"]
"""Imported once, for all processes of all tests here."""

DECODES: list[tuple[str, dict[str, Any]]] = [
    (strategy, options)
    for strategy in ("speculative", "pearl")
    for options in ({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3})
]

Work = Callable[[Path], None]


def start(work: Work, folder: Path) -> list[BaseProcess]:
    """Two ranks that run `work`, as torchrun would start them."""
    context: Any = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [context.Process(target=_rank, args=(rank, port, work, folder)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    return ranks


def _rank(rank: int, port: int, work: Work, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    (folder / f"pid{rank}").write_text(str(os.getpid()))
    parallel.PATIENCE_SECONDS = PATIENCE_SECONDS
    torch.set_num_threads(1)
    work(folder)


def finish(ranks: list[BaseProcess], folder: Path) -> tuple[Any, list[int | None]]:
    """What rank 0 wrote down, and the exit codes; `None` for a rank that had to be killed."""
    end = time.monotonic() + 60
    for rank in ranks:
        rank.join(max(0.0, end - time.monotonic()))
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    found = folder / "found.json"
    return json.loads(found.read_text()) if found.exists() else None, codes


def load(folder: Path) -> Pair:
    return Pair.load(folder / "target", folder / "draft", dtype="float64", tensor_parallel=True, lane="inline")


def decoded(pair: Pair, decodes: Sequence[tuple[str, dict[str, Any]]] = DECODES) -> list[list[int]]:
    """Outputs over strategies and samplings, alone and in a batch."""
    more: dict[str, Any] = {"max_new_tokens": 16, "eos": (), "seed": 5}
    alone = [specdec.decode(pair, specdec.create(name, draft_length=3), PROMPT, **options, **more) for name, options in decodes]
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    batch = specdec.decode(pair, specdec.create("pearl", draft_length=2), prompts, batch_size=2, temperature=1.0, **more)
    return [list(result.tokens) for result in (*alone, *batch)]


def serve_all(folder: Path) -> None:
    """Everything that may be asked of ranks that live: each rank refuses one key head, then rank 0 decodes."""
    parallel.CHUNK = 64  # most calls come in two parts
    found: dict[str, Any] = {}
    try:
        Pair.load(folder / "one_key", tensor_parallel=True)
    except PairError as error:
        found["one key head"] = str(error)
    with load(folder) as pair:
        found["tokens"] = decoded(pair)
        found["why_eager"] = pair.why_eager()["target"]
        found["interrupted"] = interrupted(pair)
        found["tokens after Ctrl-C"] = decoded(pair, DECODES[-1:])
        target: Any = pair.target
        for name, ask in {
            "generate": lambda: target.generate(torch.tensor([PROMPT])),
            "second pair": lambda: Pair(target),
        }.items():
            try:
                ask()
            except PairError as error:
                found[name] = str(error)
    found["rank 1 ended"] = ended(int((folder / "pid1").read_text()))
    (folder / "found.json").write_text(json.dumps(found))


def ended(process: int) -> bool:
    """Whether a process ends within seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def interrupted(pair: Pair) -> int:
    """Interrupts a decode in the middle of its fifth forward. Returns how many forwards of the target began."""
    begun: list[int] = []

    def interrupt(*_: Any) -> None:
        begun.append(1)
        if len(begun) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    hook = pair.target.model.layers[0].register_forward_hook(interrupt)
    try:
        specdec.decode(pair, specdec.create("speculative", draft_length=2), PROMPT, max_new_tokens=60, eos=())
    except KeyboardInterrupt:
        return len(begun)
    finally:
        hook.remove()
    return 0


def lose_rank_1(folder: Path) -> None:
    """Rank 1 is killed between two rounds."""
    _stopped(folder, lambda: os.kill(int((folder / "pid1").read_text()), signal.SIGKILL))


def end_rank_0(folder: Path) -> None:
    """torchrun has lost another rank, and tells this one to end; later it does so again."""
    _stopped(folder, lambda: os.kill(os.getpid(), signal.SIGTERM))


def kill_rank_0(folder: Path) -> None:
    """Rank 0 is killed between two rounds."""
    _stopped(folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def _stopped(folder: Path, act: Callable[[], None]) -> None:
    """`act` in the fifth round of a decode, and write down how that decode and another one end."""
    rounds: list[int] = []

    def stop(tokens: tuple[int, ...]) -> None:
        rounds.append(len(tokens))
        if len(rounds) == 5:
            act()

    pair = load(folder)
    strategy, found = specdec.create("speculative", draft_length=2), list[Any]()
    for prompt in (PROMPT, PROMPT):
        start = time.monotonic()
        try:
            specdec.decode(pair, strategy, prompt, max_new_tokens=60, eos=(), seed=1, temperature=1.0, stop=stop)
        except ModelError as error:
            found.append((str(error), [list(result.tokens) for result in error.results], time.monotonic() - start))
    os.kill(os.getpid(), signal.SIGTERM)  # too late to matter
    pair.close()
    (folder / "found.json").write_text(json.dumps(found))


def command_line(folder: Path) -> None:
    """`specdec generate`. Both ranks have the same standard input, so only rank 0 may take it."""
    from specdec.cli import main

    sys.stdin = io.TextIOWrapper(io.BytesIO(b"abcd"))
    if os.environ["RANK"] == "1":
        sys.stdin.close()
    models = ["--target", str(folder / "target"), "--draft", str(folder / "draft"), "--dtype", "float64", "--lane", "inline"]
    decode = ["--draft-length", "3", "--seed", "3", "--max-new-tokens", "12", "--json", str(folder / "found.json")]
    sys.exit(main(["generate", "-", "--tensor-parallel", *models, *decode]))
