"""The whole sweep: every type in a process of its own, a few at a time, so that none can end the others."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import torch
import transformers
from sweep.verdict import Verdict, judge

SECONDS = 240
"""A type that takes longer is counted as a crash: it hangs."""


def causal_types() -> list[str]:
    """Every type with a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def image_text_types() -> list[str]:
    """Every type that turns pictures and text into text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def sweep(types: Sequence[str], *, image_text: bool = False, at_once: int = 2, device: str = "cpu") -> Iterator[Verdict]:
    """The verdicts, in order."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweep.verdict", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"])
    with ThreadPoolExecutor(at_once) as threads:
        yield from threads.map(lambda it: in_a_process(context, it, image_text, device), types)


def work_alone(answer: Connection, model_type: str, image_text: bool, device: str) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)  # some forwards print
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    answer.send(judge(model_type, image_text=image_text, device=device))


Work: TypeAlias = Callable[[Connection, str, bool, str], None]


def in_a_process(context: Any, model_type: str, image_text: bool, device: str = "cpu", work: Work = work_alone) -> Verdict:
    """The verdict on a type, or how its process ended."""
    answer, ours = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(ours, model_type, image_text, device), daemon=True)
    process.start()
    ours.close()
    try:
        if answer.poll(SECONDS):
            return answer.recv()
        return Verdict(model_type, "CRASH", f"no verdict after {SECONDS} s")
    except EOFError:
        process.join()
        return Verdict(model_type, "CRASH", f"the process died ({process.exitcode})")
    finally:
        answer.close()
        process.kill()
        process.join()
