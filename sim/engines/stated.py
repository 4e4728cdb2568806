"""What a person says of runs whose files do not say it, and the run made of both.

A file often holds latencies and no word on the method. Nothing is guessed then: the method and the draft length are asked for.
Whether a run drafted at all can mostly be seen, so runs with and without speculation may be read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isclose
from typing import Any

from sim.engines.run import AR, SGLANG_ALGORITHMS, EngineRun
from sim.setup.gpus import gpu_memory, gpu_name
from specdec.errors import InputError

NO_DRAFT = ("ar", "none", "off", "autoregressive", "false", "null", "baseline", "vanilla", "no_spec", "no_speculation")
OF_SGLANG = {name.lower(): method for method, name in SGLANG_ALGORITHMS.items()}


@dataclass(frozen=True)
class Stated:
    """What is known of all runs that are read together; `None` where it is not.

    `method`, `draft_length`, `draft`              of the runs that draft; a file that says something else is refused
    `gpu`, `gpus`, `clients`, `rate`, `seconds`    of the measurement; the same. `seconds` is between two scrapes of metrics
    `target`, `dataset`, `kv_tokens`               replace what files say
    """

    method: str | None = None
    draft_length: int | None = None
    target: str | None = None
    draft: str | None = None
    dataset: str | None = None
    gpu: str | None = None
    gpus: int | None = None
    clients: int | None = None
    rate: float | None = None
    seconds: float | None = None
    kv_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            object.__setattr__(self, "method", method_name(self.method))
        for name in ("draft_length", "gpus", "clients", "rate", "seconds", "kv_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{_option(name)} {value} is not possible: give a number above 0")
        if self.method == AR and (self.draft_length or self.draft):
            raise InputError("--method ar drafts nothing: leave --draft-length and --draft out")

    def run(self, source: str, drafted: bool | None, **found: Any) -> EngineRun:
        """The run, from what its file says (`found`) and what is stated.

        `drafted` says whether it can be seen that the engine drafted; `None`: it cannot. Raises `InputError` where the two
        contradict each other, or where nobody says the method or the draft length.
        """
        found = {name: value for name, value in found.items() if value not in (None, "", ())}
        if "method" in found:
            found["method"] = method_name(str(found["method"]))
        method, length = self._method(source, drafted, found)
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("method", "draft_length")}
        self._agrees(source, found)
        values: dict[str, Any] = found | {name: value for name, value in named.items() if value is not None}
        if method == AR:
            values = {
                name: value for name, value in values.items() if name not in ("draft", "by_position", "acceptance_length")
            }
        if "assumed" in values:
            values["assumed"] = tuple(name for name in values["assumed"] if named.get(name) is None)
        values.update(method=method, draft_length=length)
        return EngineRun(source, **values)

    def _agrees(self, source: str, found: dict[str, Any]) -> None:
        """Refuse what is stated of a measurement that its file tells differently; what it only assumes may be told."""
        for name in ("gpu", "gpus", "clients", "rate", "seconds"):
            stated, read = getattr(self, name), found.get(name)
            if stated is None or read is None or name in found.get("assumed", ()):
                continue
            if not (same_gpu(stated, read) if name == "gpu" else isclose(stated, read, rel_tol=1e-3)):
                raise InputError(f"{source} says {name} {read}, and {stated} was given: leave that out, or correct the file")

    def _method(self, source: str, drafted: bool | None, found: dict[str, Any]) -> tuple[str, int]:
        read = found.get("method")
        if drafted and AR in (read, self.method):
            said = "says that it did not" if read == AR else "and --method ar was given: leave that out"
            raise InputError(f"{source} shows that the engine drafted, {said}")
        if drafted is None and read is not None:
            drafted = read != AR
        if drafted is None and self.method is not None:
            drafted = self.method != AR
        if drafted is None:
            raise InputError(f"{source} does not say whether the engine drafted: give --method ar, or the method that drafts")
        if not drafted:
            return AR, 0
        method = read or self.method
        if method is None:
            raise InputError(f"{source} drafted and does not say how: give --method, such as draft_model, eagle3, mtp or ngram")
        length = found.get("draft_length") or self.draft_length
        if length is None:
            raise InputError(
                f"{source} does not say how many tokens were drafted in a round: give --draft-length to specdec import, and "
                "read what it writes with --json"
            )
        for name, value in {"method": method, "draft_length": length, "draft": found.get("draft")}.items():
            stated = getattr(self, name)
            if stated is not None and value not in (None, stated):
                raise InputError(
                    f"{source} is a run of {name} {value!r}, and {_option(name)} {stated} was given: leave that out"
                )
        return method, int(length)

    def again(self, run: EngineRun) -> EngineRun:
        """A run that was read before, with what is stated now. One GPU is also what a run has whose file does not say."""
        values = {name: value for name, value in vars(run).items() if name != "source" and (name, value) != ("gpus", 1)}
        return self.run(run.source, run.method != AR, **values)

    def check_used(self, runs: Sequence[EngineRun]) -> None:
        """Refuse what was stated of runs that draft, if none does."""
        for name in ("method", "draft_length", "draft"):
            stated = getattr(self, name)
            if stated is not None and all(getattr(run, name) != stated for run in runs):
                raise InputError(
                    f"{_option(name)} {stated} is true of no run: none of those that were read drafted; leave it out"
                )


def same_gpu(one: str, other: str) -> bool:
    """Whether two names are of one GPU, with as much memory; names that are not known must be equal."""
    try:
        return gpu_name(one) == gpu_name(other) and gpu_memory(one) == gpu_memory(other)
    except InputError:
        return one.casefold() == other.casefold()


def method_name(text: str) -> str:
    """A method as vLLM calls it, whatever the engine: SGLang's `STANDALONE` is `draft_model`; `ar` for every name of none."""
    name = text.strip().lower().replace("-", "_")
    return AR if name in NO_DRAFT else OF_SGLANG.get(name, name)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
