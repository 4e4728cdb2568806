"""One serving run as an engine or a benchmark tool reported it: the one value that all readers make.

Definitions are vLLM's, and readers of other tools convert to them. TTFT is the time to the first token. TPOT is a request's mean
time of each token after the first. ITL is the gap between two chunks of a stream; an engine sends one chunk in a step, so the
ITL is the time of a round. The acceptance length counts the token of the target itself (the bonus). Rates by position are
marginal: the share of all rounds in which this position was accepted, so they never rise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from specdec.errors import InputError
from specdec.report import Report


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
            if value is not None and not (isfinite(value) and value >= 0):
                raise InputError(f"{name} of a latency is {value} s, and must be a time of at least 0")


UNKNOWN = Times()


@dataclass(frozen=True)
class EngineRun(Report):
    """A run of many requests against an engine; `None`, or empty, where the tool does not say.

    `source`                  the file, and where in it, for messages
    `target`, `draft`         names of the models; `draft` is empty without one
    `method`                  how guesses are made, as the engine calls it: `ar` for none, else `draft_model`, `eagle3`, ...
    `draft_length`            guesses of a round; 0 for `ar`
    `dataset`                 where the prompts come from
    `gpu`, `gpus`             name of the GPU, and how many hold the target
    `clients`                 requests that clients keep open at once (a closed loop)
    `rate`                    requests per second that arrive; `None`: as fast as clients allow
    `running`                 mean number of requests that the engine decodes at once
    `requests`                completed requests
    `seconds`                 how long the run took
    `input_tokens`            prompt tokens of all requests
    `output_tokens`           tokens of all answers
    `ttft`, `tpot`, `itl`, `e2e`   latencies
    `acceptance_length`       tokens of a round, the bonus included
    `by_position`             marginal rates of acceptance by position
    `rounds`                  how many rounds the rates were counted in, all requests together
    `kv_tokens`               tokens that the KV cache holds
    """

    source: str
    target: str = ""
    draft: str = ""
    method: str = "ar"
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

    def __post_init__(self) -> None:
        if self.draft_length < 0 or (self.method == "ar") != (self.draft_length == 0):
            raise InputError(
                f"{self.source}: method {self.method!r} with a draft length of {self.draft_length} is not possible: "
                "say how many tokens were drafted in a round, and by which method"
            )
        most = self.draft_length + 1
        if self.acceptance_length is not None and not 1 <= self.acceptance_length <= most + 1e-6:
            raise InputError(
                f"{self.source}: an acceptance length of {self.acceptance_length:g} is not possible with {self.draft_length} "
                f"guesses a round: it counts the bonus token and lies between 1 and {most}"
            )
        if any(not 0 <= rate <= 1 for rate in self.by_position):
            raise InputError(f"{self.source}: rates of acceptance {list(self.by_position)} are no shares: give numbers from 0 to 1")
