"""One serving run as an engine or a benchmark tool reported it: the one value that all readers make.

Definitions are vLLM's, and readers of other tools convert to them. TTFT is the time to the first token. TPOT is a request's
mean time of each token after the first. ITL is the gap between two chunks of a stream; an engine sends one chunk in a step, so
the ITL is the time of a round. The acceptance length counts the token of the target itself (the bonus). Rates by position are
marginal: the share of all rounds in which this position was accepted, so they never rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, ClassVar

from specdec.errors import InputError
from specdec.report import Report, milliseconds, table, three_digits

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("k", "clients", "rate/s", "TTFT", "TPOT", "ITL", "tokens/round", "tok/s")
MOST, LONGEST = 1e15, 1000
"""More than anybody counts, or drafts in a round."""
AR = "ar"
"""The method of a run without speculation."""
DRAFT_MODEL = "draft_model"
"""The method whose draft is a model of its own: it has a cache beside the target's, and can run on a device of its own."""
SGLANG_ALGORITHMS = {DRAFT_MODEL: "STANDALONE", "eagle3": "EAGLE3", "eagle": "EAGLE", "mtp": "NEXTN", "ngram": "NGRAM"}
"""What SGLang calls methods."""
TOLERANCE = 0.03
"""How much two reports of one acceptance may differ."""
CHUNKS_OF_MANY = 1.3
"""Chunks that take longer than so many times the time of a token hold several tokens: the engine drafted."""


@dataclass(frozen=True)
class Times(Report):
    """A latency over the requests, or the chunks, of a run, in seconds; `None` where it was not reported.

    `mean`     over all of them
    `median`   half of them take no longer
    `p99`      99 % of them take no longer
    """

    mean: float | None = None
    median: float | None = None
    p99: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < MOST:
                raise InputError(f"{name} of a latency is {value} s, and must be a time of at least 0")


UNKNOWN = Times()


def far_above(one: float, other: float) -> bool:
    """Whether two numbers of one thing differ by more than rounding and shortened rounds explain, and this is the larger."""
    return one > (1 + TOLERANCE) * other


def tokens_of_chunk(itl: Times, tpot: Times) -> float | None:
    """Tokens of a chunk: its mean time over that of a token; `None` where one of them is not known."""
    return None if itl.mean is None or not tpot.mean else max(1.0, itl.mean / tpot.mean)


def chunks_of_many(itl: Times, tpot: Times) -> bool | None:
    """Whether chunks hold several tokens, so that the engine drafted; `None` where it cannot be seen."""
    tokens = tokens_of_chunk(itl, tpot)
    return None if tokens is None else tokens > CHUNKS_OF_MANY


@dataclass(frozen=True)
class EngineRun(Report):
    """A run of many requests against an engine; `None`, or empty, where the tool does not say.

    `source`                  the file, and where in it, for messages
    `target`, `draft`         names of the models; `draft` is empty without one
    `method`                  how guesses are made, as vLLM calls it: `ar` for none, else `draft_model`, `eagle3`, ...
    `draft_length`            guesses of a round; 0 for `ar`
    `dataset`                 where the prompts come from
    `gpu`, `gpus`             name of the GPU, and how many hold the target
    `clients`                 requests that clients keep open at once (a closed loop)
    `rate`                    requests per second that arrive; `None`: as fast as clients allow
    `running`                 mean number of requests that the engine decodes at once
    `requests`                completed requests
    `failed`                  requests that failed; the others ran beside them
    `seconds`                 how long the run took
    `input_tokens`            prompt tokens of all requests
    `output_tokens`           tokens of all answers
    `ttft`, `tpot`, `itl`, `e2e`   latencies
    `acceptance_length`       tokens of a round, the bonus included
    `by_position`             marginal rates of acceptance by position
    `accepted`                number of rounds that accepted 0, 1, 2, ... guesses, where they were counted
    `rounds`                  how many rounds the rates were counted in, all requests together
    `kv_tokens`               tokens that the KV cache holds
    `max_batch`               requests that the engine decodes at once at most (`max_num_seqs`)
    `assumed`                 which of the numbers above the tool did not say, so that they are assumed
    """

    source: str
    target: str = ""
    draft: str = ""
    method: str = AR
    draft_length: int = 0
    dataset: str = ""
    gpu: str = ""
    gpus: int = 1
    clients: int | None = None
    rate: float | None = None
    running: float | None = None
    requests: int | None = None
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    ttft: Times = UNKNOWN
    tpot: Times = UNKNOWN
    itl: Times = UNKNOWN
    e2e: Times = UNKNOWN
    acceptance_length: float | None = None
    by_position: tuple[float, ...] = ()
    rounds: int | None = None
    kv_tokens: int | None = None
    max_batch: int | None = None
    failed: int = 0
    accepted: tuple[int, ...] = ()
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.draft_length <= LONGEST or (self.method == AR) != (self.draft_length == 0):
            raise InputError(
                f"{self.source}: method {self.method!r} with a draft length of {str(self.draft_length)[:20]} is not possible: "
                "say how many tokens were drafted in a round, and by which method"
            )
        most = self.draft_length + 1
        if self.acceptance_length is not None and not 1 <= self.acceptance_length <= most + 1e-6:
            raise InputError(
                f"{self.source}: an acceptance length of {self.acceptance_length:g} is not possible with {self.draft_length} "
                f"guesses a round: it counts the bonus token and lies between 1 and {most}"
            )
        if any(not 0 <= rate <= 1 for rate in self.by_position):
            raise InputError(
                f"{self.source}: rates of acceptance {list(self.by_position)} are no shares: give numbers from 0 to 1"
            )
        if len(self.by_position) > self.draft_length or any(b > a + 1e-9 for a, b in pairwise(self.by_position)):
            raise InputError(
                f"{self.source}: rates {list(self.by_position)} are no marginal rates of {self.draft_length} positions: these "
                "are shares of all rounds, one for each position, and never rise"
            )
        self._agrees()
        counts = {
            name: getattr(self, name) for name in ("clients", "gpus", "requests", "kv_tokens", "max_batch", "seconds", "rate")
        }
        for name, value in counts.items():
            if value is not None and not 0 < value < MOST:
                raise InputError(
                    f"{self.source}: {name} is {str(value)[:20]}, and must be above 0: leave it out where it is not known"
                )
        for name in ("running", "failed", "input_tokens", "output_tokens", "rounds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < MOST:
                raise InputError(f"{self.source}: {name} is {str(value)[:20]}, and must be at least 0: the file is damaged")

    def _agrees(self) -> None:
        """Refuse acceptance that two numbers tell differently."""
        longest = max((accepted for accepted, rounds in enumerate(self.accepted) if rounds), default=0)
        if longest > self.draft_length:
            raise InputError(
                f"{self.source}: a round accepted {longest} guesses, and the draft length is {self.draft_length}: correct the "
                "draft length"
            )
        if self.acceptance_length is None:
            return
        whole = len(self.by_position) == self.draft_length
        by_rates = 1 + sum(self.by_position)
        if far_above(by_rates, self.acceptance_length) or (whole and far_above(self.acceptance_length, by_rates)):
            raise InputError(
                f"{self.source}: rates by position give {by_rates:.3g} tokens a round, and the acceptance length is "
                f"{self.acceptance_length:.3g}: the rates are not shares of all rounds (conditional ones are larger), or one "
                "is of another run"
            )

    @property
    def throughput(self) -> float | None:
        """Tokens of answers per second, all requests together."""
        return self.output_tokens / self.seconds if self.output_tokens is not None and self.seconds else None


@dataclass(frozen=True)
class EngineRuns(Report):
    """Runs of serving engines, read from their files; what `specdec import --json` writes.

    `runs`   one run each, in the order in which they were read
    """

    format: ClassVar[str] = "specdec.runs/1"

    runs: tuple[EngineRun, ...]

    def remarks(self) -> list[str]:
        """What a reader of the numbers should know of them."""
        failed = [run for run in self.runs if run.failed]
        rates = sum("rate" in run.assumed for run in self.runs)
        random = [run for run in self.runs if run.method != AR and run.dataset.startswith("random")]
        return [
            *(
                f"{run.source}: {run.failed} requests failed; the latencies are those of the {run.requests} others."
                for run in failed
            ),
            *([f"{rates} run(s) of a table without request_rate: as many per second as clients are assumed."] if rates else []),
            *(f"{run.source}: prompts are random tokens, so acceptance says nothing of real text." for run in random),
        ]

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        where = _common([run.source for run in self.runs])
        title = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}" + (f" of {where}" if where else "")
        made = table("method", numbers=COLUMNS, title=title)
        made.add_column("source", overflow="fold")
        for run in self.runs:
            means = [_ms(times.mean if times.mean is not None else times.median) for times in (run.ttft, run.tpot, run.itl)]
            numbers = (run.rate, run.acceptance_length, run.throughput)
            rate, length, speed = ("-" if value is None else three_digits(value) for value in numbers)
            clients = "-" if run.clients is None else str(run.clients)
            made.add_row(
                run.method, str(run.draft_length or "-"), clients, rate, *means, length, speed, run.source[len(where) :]
            )
        return Group(made, "Mean latencies in ms; medians where there is no mean.", *self.remarks())


def _common(sources: Sequence[str]) -> str:
    """What all sources begin with: folders, and the file too where it is one."""
    begin = commonprefix(sources) if len(sources) > 1 else ""  # noqa: RUF071 - letters are meant, not folders
    folders = begin.rfind("/") + 1
    return begin[: begin.find(" ", folders) + 1 or folders]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else milliseconds(seconds).removesuffix(" ms")
