"""How long two models take on their lanes: steps, windows and batches of each alone, and their ratio while both work.

Settings are timed in short blocks that alternate, so that a drift of the machine hits all of them alike. Within a block the
context grows by a token each time, as in a decode: a forward of the very shapes of the one before is some percent faster. This
module knows lanes, and no pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count, cycle, islice
from statistics import mean, median, stdev
from typing import Any, TypeVar

from specdec.errors import InputError, StrategyError
from specdec.runtime.lane import Lane
from specdec.runtime.messages import DraftRequest, ForkRequest, ScoreRequest
from specdec.sampling import Sampling
from specdec.state import BRANCHES, POSITIONS, Costs, Curve

CONTEXT_TOKENS = 128
"""Length of the made-up context after which steps are timed, unless another length is given."""

RATIO_SECONDS = 1.0
"""How long a speed ratio may take to measure, since a first token waits for it."""

SHORTEST_CONTEXT = 20
"""Tokens that a model must hold to be timed: half of them stand before the widest window."""

COSTS_REPEATS = 8
"""How often each kind of work is timed for `Costs`. A first token waits for it."""

FAN_OUT = 3
"""Tokens that a timed fork foresees behind each prefix, as `saguaro` does."""

WARM_UP, BLOCK = 2, 4
"""Repeats of a setting, one after another: the first `WARM_UP` are not counted, the next `BLOCK` are."""

GROWN = WARM_UP + BLOCK - 1
"""Tokens by which a text grows in a block: the last repeat is timed behind so many more."""

PAUSE_SECONDS = 0.2
"""A pause after which work is that of an idle machine: caches hold the data of others."""

FOR_EVER = 1e12
"""Steps that a fork takes of a draft that cannot fork. It is finite, so that closed forms stay numbers."""

GREEDY = Sampling(temperature=0)

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of step: `mean` over repeats without outliers, `cv` their coefficient of variation."""

    mean: float
    cv: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """From repeats. Those over three times the median are left out: the machine was busy with something else."""
        middle = median(seconds)
        kept = [value for value in seconds if value <= 3 * middle]
        return cls(mean(kept), stdev(kept) / mean(kept) if len(kept) > 1 else 0.0)


def interleaved(settings: Sequence[Any], repeats: int, work: Callable[[Any], Iterator[T]]) -> dict[Any, list[T]]:
    """At least `repeats` results of each setting, in alternating blocks. `work(setting)` yields results without end."""
    found: dict[Any, list[T]] = {setting: [] for setting in settings}
    for _ in range(0, repeats, BLOCK):
        for setting in settings:
            found[setting] += islice(work(setting), WARM_UP, WARM_UP + BLOCK)
    return found


def made_up_context(tokens: int) -> list[int]:
    """A context of the given length, of token ids that every vocabulary has. Times do not depend on the ids."""
    return [i % 2 for i in range(tokens)]


def timing_context(limit: int) -> int:
    """Length of the made-up context for models that hold `limit` tokens: `CONTEXT_TOKENS`, or half of what they hold."""
    if limit < SHORTEST_CONTEXT:
        raise InputError(
            f"the models hold {limit} tokens, too few to time steps in: take models that hold {SHORTEST_CONTEXT} or more"
        )
    return min(CONTEXT_TOKENS, limit // 2)


def step_seconds(lane: Lane, repeats: int = 12, context: int = CONTEXT_TOKENS, sampling: Sampling = GREEDY) -> float:
    """Median seconds of a step, one token after another. Target and draft are measured alike, each on its lane."""
    return median(timed_drafts(lane, repeats, context, sampling))


def speed_ratio(
    target: Lane,
    draft: Lane,
    repeats: int = 24,
    context: int = CONTEXT_TOKENS,
    seconds: float = RATIO_SECONDS,
    sampling: Sampling = GREEDY,
) -> float:
    """`c`: seconds of a target step over seconds of a draft step, the median of pairs.

    Both models of a pair work at the same time, as in a decode, so a slow moment hits both, and moves few of the pairs. Lanes
    that cannot overlap work one after the other. Slow models get fewer pairs: no new one after `seconds`, but a third of them.
    """
    base = made_up_context(context)
    for lane in (draft, target):  # the draft first, so that its process is up when timing begins
        lane.submit("begin", sampling, base)()
    window, steps = [*base, 0], 8
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    for repeat in range(repeats + WARM_UP):
        if len(ratios) >= repeats / 3 and time.perf_counter() > end:
            break
        wait = draft.submit("draft", [DraftRequest(0, window, steps, [0.5] * steps)])
        [scoring] = target.submit("score", [ScoreRequest(0, window, 1)])()
        [drafting] = wait()
        if repeat >= WARM_UP:
            ratios.append(scoring.busy_seconds * max(1, len(drafting.tokens)) / drafting.busy_seconds)
    return median(ratios)


def measured_costs(
    target: Lane, draft: Lane | None, ratio: float, context: int = CONTEXT_TOKENS, sampling: Sampling = GREEDY
) -> Costs:
    """What work takes at a measured speed `ratio`, at `POSITIONS` and `BRANCHES`.

    A fork of a draft that cannot fork takes for ever.
    """
    windows = window_seconds(target, POSITIONS, COSTS_REPEATS, context, sampling)
    costs = Costs(ratio, _in_steps(windows, windows[1]))
    if draft is None:
        return costs
    step = step_seconds(draft, COSTS_REPEATS, context, sampling)
    try:
        forks = timed_branches(draft, BRANCHES, COSTS_REPEATS, context, sampling)
    except StrategyError:
        return replace(costs, fork=FOR_EVER)
    branches = {1: step} | {number: median(steps) for number, (steps, _) in forks.items()}
    return replace(costs, branches=_in_steps(branches, step), fork=max(1.0, forks[BRANCHES[0]][1] / step))


def _in_steps(seconds: Mapping[int, float], step: float) -> Curve:
    """Seconds by number as a curve in steps; none is shorter than one before, which takes less work."""
    return tuple(zip(seconds, accumulate((one / step for one in seconds.values()), max), strict=True))


def window_seconds(
    lane: Lane, widths: Sequence[int], repeats: int = 12, context: int = CONTEXT_TOKENS, sampling: Sampling = GREEDY
) -> dict[int, float]:
    """Median seconds of a forward over each width, after `context` tokens."""
    found = timed_windows(lane, widths, repeats, context, sampling)
    return {width: median(seconds) for width, seconds in found.items()}


def timed_windows(
    lane: Lane, widths: Sequence[int], repeats: int, context: int, sampling: Sampling, slots: int = 1
) -> dict[int, list[float]]:
    """Seconds of forwards over each width, after `context` tokens, in the first of `slots` slots."""
    base = made_up_context(context)
    lane.submit("begin", sampling, base, 0, slots)()

    def forwards(width: int) -> Iterator[float]:
        for grown in count():
            yield lane.submit("score", [ScoreRequest(0, [*base, *[0] * (grown + width)], width)])()[0].busy_seconds

    return interleaved(widths, repeats, forwards)


def timed_prompts(lane: Lane, lengths: Sequence[int], repeats: int, slots: int = 1) -> dict[int, list[float]]:
    """Seconds in which a prompt of each length is read into the first of `slots` slots, none of it being cached."""

    return interleaved(lengths, repeats, lambda length: _prompts(lane, length, slots))


def timed_pauses(lane: Lane, length: int, repeats: int, slots: int = 1) -> list[float]:
    """Seconds by which a prompt takes longer to read after `PAUSE_SECONDS` without work than right after another one."""
    seconds, found = _prompts(lane, length, slots), list[float]()
    for _ in range(repeats):
        next(seconds)
        at_once = next(seconds)
        time.sleep(PAUSE_SECONDS)
        found.append(next(seconds) - at_once)
    return found


def _prompts(lane: Lane, length: int, slots: int) -> Iterator[float]:
    """Seconds of prompts that are read one after another."""
    for first in cycle((0, 1)):  # not the prefix of the prompt before
        prompt, start = [first, *made_up_context(length - 1)], time.perf_counter()
        lane.submit("begin", Sampling(), prompt, 0, slots)()
        yield time.perf_counter() - start


def timed_drafts(lane: Lane, repeats: int, context: int, sampling: Sampling, slots: int = 1) -> list[float]:
    """Seconds per drafted token, in drafts of four, in the first of `slots` slots."""
    base = made_up_context(context)
    lane.submit("begin", sampling, base, 0, slots)()

    def drafts(tokens: int) -> Iterator[float]:
        for grown in count(1):
            [drafting] = lane.submit("draft", [DraftRequest(0, [*base, *[0] * grown], tokens, [0.5] * tokens)])()
            yield drafting.busy_seconds / max(1, len(drafting.tokens))

    return interleaved([4], repeats, drafts)[4]


def fan_outs(branches: int) -> tuple[int, ...]:
    """A fork of so many branches as strategies ask for it: `FAN_OUT` tokens are foreseen behind each prefix of a window."""
    full, rest = divmod(branches, FAN_OUT)
    return (FAN_OUT,) * full + (rest,) * (rest > 0)


def fork_positions(branches: int) -> int:
    """Positions behind the context that `timed_branches` fills for so many branches: growing windows, and tokens after them."""
    prefixes = len(fan_outs(branches))
    return prefixes + WARM_UP + BLOCK + 1 + max(BLOCK, prefixes - 1)


def timed_branches(
    lane: Lane, branches: Sequence[int], repeats: int, context: int, sampling: Sampling, slots: int = 1
) -> dict[int, tuple[list[float], float]]:
    """By number of branches: seconds in which each branch of a fork gets one more token, and those before its first token.

    Branches are as long as the window before them, as in a decode: the more cells they fill, the longer a step takes.
    """
    base = made_up_context(context)
    lane.submit("begin", sampling, base, 0, slots)()
    race = None if sampling.greedy else 1
    more = {number: max(BLOCK, len(fan_outs(number)) - 1) for number in branches}

    def forks(number: int) -> Iterator[tuple[float, float]]:
        """Seconds of a fork of one token, and of a longer one."""
        for grown in count(len(fan_outs(number))):
            text = [*base, *[0] * grown]
            lengths = 1, 1 + more[number]
            requests = [ForkRequest(0, text, fan_outs(number), n, [0.5] * number * n, race=race) for n in lengths]
            short, longer = (lane.submit("fork", [request])()[0].busy_seconds for request in requests)
            yield short, longer

    found: dict[int, tuple[list[float], float]] = {}
    for number, timed in interleaved(branches, repeats, forks).items():
        usual = median(short for short, _ in timed)
        steps = [(longer - usual) / more[number] for _, longer in timed if longer > usual]  # else the machine was busy
        steps = steps or [longer / (1 + more[number]) for _, longer in timed]
        found[number] = steps, max(0.0, usual - median(steps))
    return found


def timed_batches(
    lane: Lane, sizes: Sequence[tuple[int, int]], repeats: int, context: int, slots: int = 1
) -> dict[tuple[int, int], list[float]]:
    """Seconds of forwards over `(batch, width)`: so many sequences, and so many positions of each."""
    base = made_up_context(context)

    def forwards(size: tuple[int, int]) -> Iterator[float]:
        batch, width = size
        _begin(lane, base, batch, slots)
        for grown in count():
            requests = [ScoreRequest(slot, [*base, *[0] * (grown + width)], width) for slot in range(batch)]
            yield lane.submit("score", requests)()[0].busy_seconds

    return interleaved(sizes, repeats, forwards)


def timed_batched_drafts(
    lane: Lane, batches: Sequence[int], repeats: int, context: int, slots: int = 1
) -> dict[int, list[float]]:
    """By batch size: seconds in which each sequence gets one more token."""
    base = made_up_context(context)

    def drafts(batch: int) -> Iterator[float]:
        _begin(lane, base, batch, slots)
        for grown in count(1):
            requests = [DraftRequest(slot, [*base, *[0] * grown], BLOCK, [0.5] * BLOCK) for slot in range(batch)]
            yield lane.submit("draft", requests)()[0].busy_seconds / BLOCK

    return interleaved(batches, repeats, drafts)


def _begin(lane: Lane, base: Sequence[int], batch: int, slots: int) -> None:
    """Read the context of every sequence of a batch."""
    for slot in range(batch):
        lane.submit("begin", Sampling(), base, slot, max(batch, slots))()
