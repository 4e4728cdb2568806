"""What a pair costs and how well it agrees, measured: the numbers that a simulator needs, and nothing it could guess.

Latencies are medians of interleaved repeats, so that drifts of the machine hit all settings alike. Acceptance needs no
speculative decoding: on text that the target sampled, the token `y` at a position would have been an accepted draft with
probability min(1, q(y) / p(y)), independently of the others given the text, and sum_x min(p(x), q(x)) is the rate there.
"""

from __future__ import annotations

import platform
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from specdec.effects import Committed, Guess, Score, Verify
from specdec.runtime.lane import Lane, available_cores
from specdec.runtime.runner import Runner
from specdec.runtime.worker import DraftRequest, ScoreRequest, Worker
from specdec.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from specdec.pair import Pair

CONTEXT_TOKENS = 128
"""Length of the made-up context at which steps are timed unless another is asked for."""

WARM_UP = 2


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


@dataclass
class _Seconds:
    """Repeats of several settings, by setting."""

    by_setting: dict[Any, list[float]] = field(default_factory=dict[Any, list[float]])

    def add(self, setting: Any, repeat: int, seconds: float) -> None:
        if repeat >= WARM_UP:
            self.by_setting.setdefault(setting, []).append(seconds)


def made_up_context(tokens: int) -> list[int]:
    """A context of the given length, of token ids that every vocabulary has: what is timed does not depend on them."""
    return [i % 2 for i in range(tokens)]


def step_seconds(lane: Lane, repeats: int = 12, context: int = CONTEXT_TOKENS) -> float:
    """Median seconds of a greedy step, one token after another, measured alike for target and draft where they work."""
    return median(_drafts(lane, repeats, context, Sampling(temperature=0)))


def window_seconds(lane: Lane, widths: Sequence[int], repeats: int = 12, context: int = CONTEXT_TOKENS) -> dict[int, float]:
    """Median seconds of a forward over each width, behind `context` tokens; the choice of a token is left out."""
    found = _windows(lane, widths, repeats, context, Sampling(temperature=0))
    return {width: median(seconds) for width, seconds in found.items()}


def _windows(lane: Lane, widths: Sequence[int], repeats: int, context: int, sampling: Sampling) -> dict[int, list[float]]:
    base = made_up_context(context)
    lane.submit("begin", sampling, 0, base)()
    seconds = _Seconds()
    for repeat in range(repeats + WARM_UP):
        for width in widths:
            for settled in (False, True):  # the first forward of another width runs slower than those that follow it
                [scoring] = lane.submit("score", [ScoreRequest(0, [*base, *[0] * width], width)])()
                if settled:
                    seconds.add(width, repeat, scoring.busy_seconds)
    return seconds.by_setting


def _drafts(lane: Lane, repeats: int, context: int, sampling: Sampling) -> list[float]:
    """Seconds per drafted token, in drafts of four."""
    base = made_up_context(context)
    lane.submit("begin", sampling, 0, base)()
    seconds = _Seconds()
    for repeat in range(repeats + WARM_UP):
        [drafting] = lane.submit("draft", [DraftRequest(0, [*base, 0], 4)])()
        seconds.add(0, repeat, drafting.busy_seconds / len(drafting.tokens))
    return seconds.by_setting[0]


def batched_seconds(model: Any, batches: Sequence[int], repeats: int, context: int) -> dict[int, list[float]]:
    """Seconds of a forward of width 1 over a batch of sequences, by batch size, without a draft at work."""
    seconds = _Seconds()
    with torch.inference_mode():
        caches = {}
        for batch in batches:
            prompt = torch.tensor([made_up_context(context)] * batch, device=model.device)
            caches[batch] = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
        for repeat in range(repeats + WARM_UP):
            for batch in batches:
                start = time.perf_counter()
                ids = torch.zeros((batch, 1), dtype=torch.long, device=model.device)
                model(ids, past_key_values=caches[batch], use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()
                seconds.add(batch, repeat, time.perf_counter() - start)
                caches[batch].crop(-1)
    return seconds.by_setting


def together_factors(pair: Pair, repeats: int, alone_target: float, alone_draft: float) -> dict[str, float]:
    """How much slower each model is while the other works all along: mean seconds together over mean seconds alone.

    A draft of twice the target's step covers the target's forward; one of half a step is covered by it.
    """
    draft = pair.draft_lane
    assert draft is not None
    base = made_up_context(CONTEXT_TOKENS)
    for lane in (pair.target_lane, draft):
        lane.submit("begin", Sampling(), 0, base)()
    seconds = _Seconds()
    step = alone_target / alone_draft
    for repeat in range(repeats + WARM_UP):
        for name, tokens in (("target", round(2 * step)), ("draft", round(step / 2))):
            window = [*base, 0]
            wait = draft.submit("draft", [DraftRequest(0, window, max(1, tokens))])
            target = pair.target_lane.submit("score", [ScoreRequest(0, window, 1)])()[0].busy_seconds
            [drafting] = wait()
            seconds.add(name, repeat, target if name == "target" else drafting.busy_seconds / len(drafting.tokens))
    alone = {"target": alone_target, "draft": alone_draft}
    return {f"{name}_factor": max(1.0, Timing.of(seconds.by_setting[name]).mean / alone[name]) for name in alone}


def round_overhead_seconds(pair: Pair, repeats: int) -> float:
    """Seconds of a round beside its forwards: verification and bookkeeping. Drafts that overlap with the target hide theirs."""
    from specdec.runtime.engine import Engine, Seat

    engine, seat = Engine(pair.target_lane, None, Sampling(), "token", pair.context_limit), Seat(0)
    committed = Committed(tuple(made_up_context(CONTEXT_TOKENS)))
    engine.begin(seat, committed.tokens)
    overheads: list[float] = []
    for _ in range(repeats + WARM_UP):
        busy = seat.statistics.forward_seconds
        start = time.perf_counter()
        [scores] = engine.answer([(seat, Score(committed, Guess.empty))])
        engine.verify(seat, Verify(scores, Guess.empty, bonus=True))
        wall = time.perf_counter() - start
        overheads.append(wall - (seat.statistics.forward_seconds - busy))
    return median(overheads[WARM_UP:])


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
    runs: Counter[int] = Counter()
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
        bits = [rng.random() < chance for chance in keep]
        runs.update(_complete_runs(bits))
    return Acceptance(mean(rates) if rates else 0.0, dict(sorted(runs.items())), len(rates))


def _rows(sampler: Sampler, logits: Tensor, context: Sequence[int]) -> Tensor:
    """What each row is drawn from, shape (n, vocabulary): all on one token when greedy."""
    if sampler.greedy:
        return one_hot(sampler.best(logits, context), logits.shape[-1])
    return sampler.probabilities(logits, context)


def _complete_runs(bits: Sequence[bool]) -> list[int]:
    """Lengths of runs of accepted tokens, each ended by a rejection; the unfinished last one is left out."""
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
    return {"cpu": _cpu_name(), "cores": available_cores(), "devices": names, "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Versions of what matters for speed."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "pearl-specdec")}}


def _cpu_name() -> str:
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

    `prompts` are token ids by name of their file. Seconds everywhere; `draft_seconds` are per drafted token, sampling included.
    """
    assert pair.draft is not None
    assert pair.draft_lane is not None
    contexts = [context for context in contexts if context + max(widths) < pair.context_limit] or [pair.context_limit // 2]
    target: list[dict[str, Any]] = []
    draft: list[dict[str, Any]] = []
    for context in contexts:
        seconds = _drafts(
            pair.draft_lane, repeats, context, Sampling()
        )  # first, so that its process is up when the target is timed
        draft.append({"batch": 1, "context": context, **vars(Timing.of(seconds))})
        for width, seconds in _windows(pair.target_lane, widths, repeats, context, Sampling()).items():
            target.append({"width": width, "batch": 1, "context": context, **vars(Timing.of(seconds))})
    more = [batch for batch in batches if batch > 1]
    for model, rows in ((pair.target, target), (pair.draft, draft)):
        for batch, seconds in batched_seconds(model, more, repeats, contexts[0]).items():
            width = {"width": 1} if rows is target else {}
            rows.append({**width, "batch": batch, "context": contexts[0], **vars(Timing.of(seconds))})
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
        "together": together_factors(pair, 2 * repeats, _alone(target, contexts), _alone(draft, contexts)),
        "round_overhead_seconds": round_overhead_seconds(pair, 2 * repeats),
        "acceptance": {
            "rate": sum(measured.rate * measured.positions for measured in by_file.values()) / positions if positions else 0.0,
            "run_lengths": {str(length): count for length, count in sorted(runs.items())},
            "by_file": {name: {"rate": measured.rate, "positions": measured.positions} for name, measured in by_file.items()},
        },
    }


def _alone(rows: Sequence[dict[str, Any]], contexts: Sequence[int]) -> float:
    """The mean of the width-1, batch-1 step at the context nearest to the made-up one."""
    context = min(contexts, key=lambda tokens: abs(tokens - CONTEXT_TOKENS))
    return next(row["mean"] for row in rows if row["context"] == context and row["batch"] == 1 and row.get("width", 1) == 1)
