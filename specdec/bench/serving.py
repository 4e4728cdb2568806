"""Plays requests on a real pair by the wall clock: each is submitted to one running `Batch` when it arrives.

A closed loop keeps a number of clients busy instead: each sends its next request when its answer is complete. Answers have
exactly the tokens that are wanted. The clock runs in the thread that takes the steps, so a request that arrives during a step
is submitted after it; its waiting counts from its arrival.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from specdec.batch import Batch
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.output import Output
from specdec.pair import Pair
from specdec.settings import Options, resolve
from specdec.strategy import DecodingStrategy
from specdec.text import Prompt, prompt_tokens
from specdec.verification import Rule


@dataclass(frozen=True)
class Request:
    """A prompt that arrives, and how long its answer is to be.

    `arrival_seconds`   since the start
    `prompt`            text or token ids
    `output_tokens`     tokens of the answer
    """

    arrival_seconds: float
    prompt: Prompt
    output_tokens: int

    def __post_init__(self) -> None:
        at_least_one(output_tokens=self.output_tokens)
        if not self.arrival_seconds >= 0:
            raise InputError(f"a request at {self.arrival_seconds} s is not possible: give 0 or more")


@dataclass
class Answered:
    """When one request was served; seconds since the start.

    `submitted_seconds`   when its client sent it: at its arrival, or later in a closed loop
    `deliveries`          when tokens came, and how many
    """

    submitted_seconds: float
    deliveries: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    @property
    def first_token_seconds(self) -> float:
        return self.deliveries[0][0]

    @property
    def finish_seconds(self) -> float:
        return self.deliveries[-1][0]


@dataclass(frozen=True)
class Step:
    """One step of the batch.

    `begin_seconds`, `end_seconds`   since the start
    `prompt_seconds`                 of these, in which prompts were read
    `sequences`                      that were in the batch
    `delivered`                      whether tokens came with it: a round may have several steps, of which the last delivers
    """

    begin_seconds: float
    end_seconds: float
    prompt_seconds: float
    sequences: int
    delivered: bool


@dataclass
class Played:
    """Requests that were served.

    `answers`   one for each request, in their order
    `steps`     of the batch, in the order in which they were taken
    """

    answers: list[Answered] = field(default_factory=list[Answered])
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def working_seconds(self) -> float:
        """Seconds in which at least one sequence was in the batch."""
        return sum(step.end_seconds - step.begin_seconds for step in self.steps)


def play(
    pair: Pair,
    strategy: DecodingStrategy,
    requests: Sequence[Request],
    *,
    batch_size: int = 8,
    clients: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    verification: str | Rule = "token",
    **options: Any,
) -> Played:
    """Serve requests, in order of arrival, and say when each was served.

    `clients` makes a closed loop of so many, in which arrivals are the earliest moments. `options` are those of `decode`, and
    are resolved once, for the first prompt. Raises `InputError` for no requests, or requests out of order, and what `Batch`
    raises.
    """
    if not requests:
        raise InputError("no requests: give at least one")
    if any(one.arrival_seconds > two.arrival_seconds for one, two in pairwise(requests)):
        raise InputError("requests are not in order of arrival: sort them by arrival_seconds")
    if clients is not None:
        at_least_one(clients=clients)
    fixed = Options.of({"eos": (), "stop_strings": (), "temperature": temperature, **options})
    prompts = [prompt_tokens(pair, one.prompt) for one in requests]
    settings = resolve(pair.target, prompts[0], fixed)
    batch = Batch(pair, strategy, batch_size=batch_size, verification=verification, seed=seed, settings=settings)
    played = Played()
    answered = played.answers
    open_requests: set[int] = set()
    free_since = [0.0] * (len(requests) if clients is None else clients)
    start = time.perf_counter()
    while len(answered) < len(requests) or open_requests:
        while len(answered) < len(requests) and free_since:
            one = requests[len(answered)]
            sent, now = max(one.arrival_seconds, free_since[0]), time.perf_counter() - start
            if sent > now:
                break
            free_since.pop(0)
            number = batch.submit(prompts[len(answered)], max_new_tokens=one.output_tokens)
            answered.append(Answered(sent))
            open_requests.add(number)
        if not open_requests:
            time.sleep(max(0.0, requests[len(answered)].arrival_seconds - (time.perf_counter() - start)))
            continue
        asked = [batch.outputs[number] for number in sorted(open_requests)]
        prompts_before, before = _prompt_seconds(asked), time.perf_counter() - start
        batch.step()
        now = time.perf_counter() - start
        running, delivered = sum(output.state is not None for output in asked), False
        for number in sorted(open_requests):
            output = batch.outputs[number]
            new_tokens = len(output.tokens) - sum(tokens for _, tokens in answered[number].deliveries)
            if new_tokens:
                answered[number].deliveries.append((now, new_tokens))
                delivered = True
            if output.finished_by is not None:
                open_requests.remove(number)
                if clients is not None:
                    free_since.append(now)
        played.steps.append(Step(before, now, _prompt_seconds(asked) - prompts_before, running, delivered))
    return played


def _prompt_seconds(outputs: Sequence[Output]) -> float:
    """Seconds in which the prompts of outputs were read so far."""
    return sum(output.slot.statistics.prefill_seconds for output in outputs)
