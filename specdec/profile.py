"""What a pair costs and how well it agrees, measured: the numbers that a simulator needs, and nothing it could guess.

A model's speed depends on the company it keeps, so it is timed in three: *alone*, one setting back to back; *in turn*, a draft,
then a window, then a verification; *together*, both at once. These are loops of effects on the lanes that decode, and hold no
strategy. Settings are timed in short blocks, turn and turn about, so that drifts of the machine hit all of them alike.

Acceptance needs no speculative decoding: on text that the target sampled, the token `y` at a position would have been an
accepted draft with probability min(1, q(y) / p(y)), independently of the others given the text, and sum_x min(p(x), q(x)) is
the rate there.
"""

from __future__ import annotations

import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby, islice
from pathlib import Path
from statistics import linear_regression, mean, median, stdev
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from specdec.effects import Both, Committed, Draft, Effect, Guess, Score, Scores, Verify
from specdec.runtime.engine import Engine, Seat
from specdec.runtime.lane import InlineLane, Lane, available_cores
from specdec.runtime.runner import Runner
from specdec.runtime.worker import DraftRequest, ScoreRequest, Worker
from specdec.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from specdec.pair import Pair

CONTEXT_TOKENS = 128
"""Length of the made-up context at which steps are timed unless another is asked for."""

WARM_UP, BLOCK = 2, 4
"""Repeats of a setting in a row: some that are not counted, then some that are."""

LENGTHS = (1, 4, 8)
"""Drafts that are timed in turn with the windows over them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of step: `mean` over repeats without outliers, `cv` their coefficient of variation."""

    mean: float
    cv: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """From repeats, without those over three times the median (the machine was elsewhere)."""
        middle = median(seconds)
        kept = [value for value in seconds if value <= 3 * middle]
        return cls(mean(kept), stdev(kept) / mean(kept) if len(kept) > 1 else 0.0)


@dataclass(frozen=True)
class Acceptance:
    """How often a drafted token is accepted (token rule, temperature as sampled).

    `rate`         mean over positions of sum_x min(p(x), q(x))
    `run_lengths`  accepted tokens between two rejections -> how often
    `positions`    how many positions were looked at
    """

    rate: float
    run_lengths: dict[int, int]
    positions: int


def _interleaved(settings: Sequence[Any], repeats: int, work: Callable[[Any], Iterator[T]]) -> dict[Any, list[T]]:
    """At least `repeats` results of each setting, in blocks of its own; `work(setting)` repeats it without end."""
    found: dict[Any, list[T]] = {setting: [] for setting in settings}
    for _ in range(0, repeats, BLOCK):
        for setting in settings:
            found[setting] += islice(work(setting), WARM_UP, WARM_UP + BLOCK)
    return found


def made_up_context(tokens: int) -> list[int]:
    """A context of the given length, of token ids that every vocabulary has: what is timed does not depend on them."""
    return [i % 2 for i in range(tokens)]


def step_seconds(lane: Lane, repeats: int = 12, context: int = CONTEXT_TOKENS) -> float:
    """Median seconds of a greedy step, one token after another, measured alike for target and draft where they work."""
    return median(_drafts(lane, repeats, context, Sampling(temperature=0)))


def speed_ratio(target: Lane, draft: Lane, repeats: int = 6, context: int = CONTEXT_TOKENS) -> float:
    """`c` where both models work at once, as they will: median seconds of a target step over those of a draft step.

    Lanes that cannot overlap are timed one after the other.
    """
    sampling, base = Sampling(temperature=0), made_up_context(context)
    for lane in (draft, target):  # the draft first, so that its process is up by then
        lane.submit("begin", sampling, 0, base)()
    window, steps = [*base, 0], 8
    found: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + WARM_UP):
        wait = draft.submit("draft", [DraftRequest(0, window, steps)])
        [scoring] = target.submit("score", [ScoreRequest(0, window, 1)])()
        [drafting] = wait()
        if repeat >= WARM_UP:
            found[0].append(scoring.busy_seconds)
            found[1].append(drafting.busy_seconds / len(drafting.tokens))
    return median(found[0]) / median(found[1])


def window_seconds(lane: Lane, widths: Sequence[int], repeats: int = 12, context: int = CONTEXT_TOKENS) -> dict[int, float]:
    """Median seconds of a forward over each width, behind `context` tokens; the choice of a token is left out."""
    found = _windows(lane, widths, repeats, context, Sampling(temperature=0))
    return {width: median(seconds) for width, seconds in found.items()}


def _windows(lane: Lane, widths: Sequence[int], repeats: int, context: int, sampling: Sampling) -> dict[int, list[float]]:
    base = made_up_context(context)
    lane.submit("begin", sampling, 0, base)()

    def forwards(width: int) -> Iterator[float]:
        while True:
            yield lane.submit("score", [ScoreRequest(0, [*base, *[0] * width], width)])()[0].busy_seconds

    return _interleaved(widths, repeats, forwards)


def _drafts(lane: Lane, repeats: int, context: int, sampling: Sampling) -> list[float]:
    """Seconds per drafted token, in drafts of four."""
    base = made_up_context(context)
    lane.submit("begin", sampling, 0, base)()

    def drafts(tokens: int) -> Iterator[float]:
        while True:
            [drafting] = lane.submit("draft", [DraftRequest(0, [*base, 0], tokens)])()
            yield drafting.busy_seconds / len(drafting.tokens)

    return _interleaved([4], repeats, drafts)[4]


def batched_seconds(lane: Lane, batches: Sequence[int], repeats: int, context: int, drafting: bool) -> dict[int, list[float]]:
    """Seconds of a forward of width 1 over a batch of sequences, or of a token `drafting` them, by batch size."""
    base = made_up_context(context)

    def forwards(batch: int) -> Iterator[float]:
        for row in range(batch):
            lane.submit("begin", Sampling(), row, base, row, batch)()
        while True:
            if drafting:
                drafted = lane.submit("draft", [DraftRequest(row, [*base, 0], BLOCK) for row in range(batch)])()
                yield drafted[0].busy_seconds / BLOCK
            else:
                yield lane.submit("score", [ScoreRequest(row, [*base, 0], 1) for row in range(batch)])()[0].busy_seconds

    return _interleaved(batches, repeats, forwards)


class _Rounds:
    """Effects answered by the lanes of a decode, round after round behind the same made-up context."""

    def __init__(self, pair: Pair, draft: Lane | None, context: int) -> None:
        self._engine, self._seat = Engine(pair.target_lane, draft, Sampling(), pair.context_limit), Seat(0)
        self._most = pair.context_limit - 2 * max(LENGTHS)
        self.base = Committed(tuple(made_up_context(context)))
        self._engine.begin(self._seat, self.base.tokens)

    def answer(self, effect: Effect[T]) -> T:
        return self._engine.answer([(self._seat, effect)])[0]

    def verified(self, scores: Scores, guess: Guess) -> Committed:
        """What is committed after a verification; the base again where the context is nearly full."""
        longer = scores.committed + self._engine.verify(self._seat, Verify(scores, guess, bonus=True)).tokens
        return longer if len(longer) < self._most else self.base

    @property
    def busy_seconds(self) -> tuple[float, float]:
        """Of the target and of the draft, up to now."""
        return self._seat.statistics.target_busy_seconds, self._seat.statistics.draft_busy_seconds


def _busy_since(rounds: _Rounds, before: tuple[float, float]) -> tuple[float, float]:
    target, draft = rounds.busy_seconds
    return target - before[0], draft - before[1]


def _means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(Timing.of(column).mean for column in zip(*rows, strict=True))


def round_overhead_seconds(pair: Pair, repeats: int, context: int) -> float:
    """Seconds of a round without a draft beside its forward: the choice of a token and bookkeeping."""
    rounds = _Rounds(pair, None, context)

    def alone(_: None) -> Iterator[float]:
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            committed = rounds.verified(rounds.answer(Score(committed, Guess.empty)), Guess.empty)
            yield time.perf_counter() - start - _busy_since(rounds, before)[0]

    return Timing.of(_interleaved([None], repeats, alone)[None]).mean


@dataclass(frozen=True)
class Alone:
    """What forwards take back to back: seconds of the target by width, and of the draft for each token."""

    target: Mapping[int, float]
    draft: float


@dataclass(frozen=True)
class InTurn:
    """A pair whose models work in turn: a draft, a window over it, a verification, and again.

    `target_factor`, `draft_factor`  seconds of a forward, and of each token of a draft, over those alone
    `start_seconds`                  of a draft beside its tokens: a model that has waited begins slowly
    `transport_seconds`              of a draft beside its work: to its lane and back
    `overhead_seconds`               of a round beside draft and forward
    """

    target_factor: float
    draft_factor: float
    start_seconds: float
    transport_seconds: float
    overhead_seconds: float


def in_turn(pair: Pair, repeats: int, context: int, alone: Alone) -> InTurn:
    """Time drafts of several lengths in turn with windows over them, behind `context` tokens that grow as verdicts have it."""
    rounds = _Rounds(pair, pair.draft_lane, context)

    def turns(length: int) -> Iterator[tuple[float, float, float, float]]:
        """Seconds of the target, of the draft, of its transport, and of the rest."""
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            guess = rounds.answer(Draft(committed, Guess.empty, length))
            drafted = time.perf_counter()
            committed = rounds.verified(rounds.answer(Score(committed, guess)), guess)
            rest = time.perf_counter() - drafted
            target, draft = _busy_since(rounds, before)
            yield target, draft, drafted - start - draft, rest - target

    found = [_means(rows) for rows in _interleaved(LENGTHS, repeats, turns).values()]
    targets, drafts, transports, rests = zip(*found, strict=True)
    step, start = linear_regression(LENGTHS, drafts)
    factor = sum(targets) / sum(alone.target[length + 1] for length in LENGTHS)
    return InTurn(factor, step / alone.draft, max(0.0, start), mean(transports), mean(rests))


def together(pair: Pair, repeats: int, context: int, alone: Alone, start_seconds: float) -> dict[str, float]:
    """How much slower each model is while the other works too, when both take about as long: over its seconds alone.

    Windows alternate with single rows, as guesses made meanwhile are scored next. `start_seconds` is that of `InTurn`.
    """
    rounds = _Rounds(pair, pair.draft_lane, context)
    tokens = max(1, round(alone.target[1] / alone.draft))
    length = max(length for length in LENGTHS if length <= tokens)

    def at_once(tokens: int) -> Iterator[tuple[float, float]]:
        """Seconds of the target and of the draft in two rounds."""
        committed = rounds.base
        while True:
            before = rounds.busy_seconds
            _, guess = rounds.answer(Both(Score(committed, Guess.empty), Draft(committed, Guess.empty, tokens)))
            scores, _ = rounds.answer(Both(Score(committed, guess[:length]), Draft(committed, guess, tokens)))
            committed = rounds.verified(scores, scores.guess)
            yield _busy_since(rounds, before)

    target, draft = _means(_interleaved([tokens], repeats, at_once)[tokens])
    factors = target / (alone.target[1] + alone.target[length + 1]), draft / 2 / (start_seconds + tokens * alone.draft)
    return dict(zip(("target_factor", "draft_factor"), (max(1.0, factor) for factor in factors), strict=True))


@torch.inference_mode()
def acceptance(
    pair: Pair, prompts: Sequence[Sequence[int]], new_tokens: int = 64, seed: int = 0, **sampling: Any
) -> Acceptance:
    """Measure acceptance on text that the target samples after `prompts` (token ids); `sampling` as in `Sampling`."""
    assert pair.draft is not None
    chosen = Sampling(**sampling)
    writer = Worker(pair.target, pair.vocabulary)
    runners = [Runner(model, pair.vocabulary) for model in (pair.target, pair.draft)]
    rng = random.Random(seed)
    rates: list[float] = []
    bits: list[bool] = []
    for number, prompt in enumerate(prompts):
        count = min(new_tokens, pair.context_limit - len(prompt))
        if count < 1:
            continue
        writer.begin(chosen, f"{seed} {number}", prompt)
        text = [*prompt, *writer.draft([DraftRequest(0, prompt, count)])[0].tokens]
        p, q = (_rows(Sampler(chosen), runner.logits(text[:-1], count), text[:-1]).double().cpu() for runner in runners)
        rates += torch.minimum(p, q).sum(-1).tolist()
        fresh = torch.tensor(text[-count:]).unsqueeze(-1)
        keep = (q.gather(1, fresh) / p.gather(1, fresh)).squeeze(-1).tolist()
        bits += [rng.random() < chance for chance in keep]
    runs = Counter(_complete_runs(bits))
    return Acceptance(mean(rates) if rates else 0.0, dict(sorted(runs.items())), len(rates))


def _rows(sampler: Sampler, logits: Tensor, context: Sequence[int]) -> Tensor:
    """What each row is drawn from, shape (n, vocabulary): all on one token when greedy."""
    if sampler.greedy:
        return one_hot(sampler.best(logits, context), logits.shape[-1])
    return sampler.probabilities(logits, context)


def _complete_runs(bits: Sequence[bool]) -> list[int]:
    """Lengths of runs of accepted tokens, each ended by a rejection; the unfinished last one is left out.

    For one stream of all texts: to leave one out of each text would lose long runs more often than short ones.
    """
    lengths: list[int] = []
    run = 0
    for accepted, group in groupby(bits):
        size = len(list(group))
        if accepted:
            run = size
        else:
            lengths += [run, *[0] * (size - 1)]
            run = 0
    return lengths


def hardware(pair: Pair) -> dict[str, Any]:
    """Where something was measured."""
    devices = [pair.target.device] + ([] if pair.draft is None else [pair.draft.device])
    names = [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type for device in devices]
    return {"cpu": cpu_name(), "cores": available_cores(), "devices": names, "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Versions of what matters for speed."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "pearl-specdec")}}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def profile(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    *,
    widths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12),
    batches: Sequence[int] = (1, 2, 4, 8),
    contexts: Sequence[int] = (64, 256, 768),
    repeats: int = 20,
    new_tokens: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a pair with a draft; the answer is what `specdec profile` writes and the simulator reads.

    `prompts` are token ids by name of their file; without any, acceptance is left out. Seconds everywhere; `draft_seconds` are
    per drafted token, sampling included.
    """
    assert pair.draft is not None
    assert pair.draft_lane is not None
    widths = sorted({1, *widths, *(length + 1 for length in LENGTHS)})
    contexts = [context for context in contexts if context + max(widths) < pair.context_limit] or [pair.context_limit // 2]
    target: list[dict[str, Any]] = []
    draft: list[dict[str, Any]] = []
    alone: dict[int, Alone] = {}
    for context in contexts:
        step = Timing.of(_drafts(pair.draft_lane, repeats, context, Sampling()))
        draft.append({"batch": 1, "context": context, **vars(step)})
        windows = {
            width: Timing.of(seconds)  # after the draft, whose process is then up
            for width, seconds in _windows(pair.target_lane, widths, repeats, context, Sampling()).items()
        }
        target += [{"width": width, "batch": 1, "context": context, **vars(timing)} for width, timing in windows.items()]
        alone[context] = Alone({width: timing.mean for width, timing in windows.items()}, step.mean)
    more = [batch for batch in batches if batch > 1]
    for lane, rows in ((pair.target_lane, target), (pair.draft_lane, draft)):
        for batch, seconds in batched_seconds(lane, more, repeats, contexts[0], drafting=rows is draft).items():
            width = {"width": 1} if rows is target else {}
            rows.append({**width, "batch": batch, "context": contexts[0], **vars(Timing.of(seconds))})
    usual = min(contexts, key=lambda tokens: abs(tokens - CONTEXT_TOKENS))
    turns = in_turn(pair, 2 * repeats, usual, alone[usual])
    side_by_side = None
    if not isinstance(pair.draft_lane, InlineLane):
        side_by_side = together(pair, 2 * repeats, usual, alone[usual], turns.start_seconds)
    by_file = {name: acceptance(pair, texts, new_tokens, seed) for name, texts in prompts.items()}
    positions = sum(measured.positions for measured in by_file.values())
    runs: Counter[int] = sum((Counter(measured.run_lengths) for measured in by_file.values()), Counter())
    return {
        "pair": {"target": pair.target.name_or_path, "draft": pair.draft.name_or_path},
        "hardware": hardware(pair),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "target_seconds": target,
        "draft_seconds": draft,
        "draft_start_seconds": (turns.start_seconds + turns.transport_seconds) / turns.draft_factor,
        "in_turn": {"target_factor": turns.target_factor, "draft_factor": turns.draft_factor},
        "together": side_by_side,
        "round_overhead_seconds": round_overhead_seconds(pair, 2 * repeats, usual),
        "drafting_overhead_seconds": turns.overhead_seconds,
        "acceptance": {
            "rate": sum(measured.rate * measured.positions for measured in by_file.values()) / positions if positions else 0.0,
            "run_lengths": {str(length): count for length, count in sorted(runs.items())},
            "by_file": {name: {"rate": measured.rate, "positions": measured.positions} for name, measured in by_file.items()},
        }
        if by_file
        else {},
    }
