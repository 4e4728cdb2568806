"""Profiles from runs of an engine: seconds of a forward, of a draft step and of a round, and acceptance.

An engine streams one chunk a step, so the median gap between chunks is the time of a round in which no prompt was read:

    T = t(n (k + 1), held) + k (d + d' n) + e      n sequences that decode, k guesses, `held` tokens in the cache
    t(rows, held) = (w(rows)^4 + (arithmetic rows)^4)^(1/4) + row rows + token held
    w(rows)       = flat + experts (1 - exp(-(rows - 1) / spread))

`flat` reads the weights that one row needs, `experts` those that only more rows need: 0 for a dense target. `arithmetic` is
the knee: a further row where arithmetic is the limit. All runs of one target share
`t`: a run without a draft is its row n, one with k guesses its row n (k + 1). Each method has a draft step `d`, its rise with
the sequences `d'`, and an overhead `e`. All are fitted together by least squares of the logarithms.

What cannot be read from few sequences follows from the hardware: `arithmetic` is 2 operations for each parameter at 70 % of the
GPU's peak in 16 bits, and `token` reads keys and values at 40 to 100 % of its bandwidth. A model that is not in the catalogue
counts with the billions in its name. Without these, the GPU says how many rows take as long as reading the weights; where the
GPU is unknown too, 230 rows are assumed, as on an H100. This is the least: a measured `flat` holds overheads too, so up to
twice as many rows are fitted. The same holds for a target that computes in 8 or 4 bits: by its name, or because a round is
shorter than reading its weights in 16 bits takes.

A run without a median says by its mean ITL, or its TPOT, how long rounds are with the prompts of others in them. In a closed
loop with n sequences, n - 1 prompts fall into the rounds of an answer; their rows are added to those rounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from sim.engines.accepted import conditional, counted, length_of
from sim.engines.run import DRAFT_MODEL, EngineRun
from sim.setup.arrays import Floats
from sim.setup.gpus import GPUS, gpu_name
from sim.setup.memory import kv_tokens
from sim.setup.model_size import read_model
from specdec.acceptance import MeasuredAcceptance, Tag
from specdec.errors import InputError
from specdec.profile import DraftTiming, PairNames, Profile, TargetTiming

SHARPNESS = 4
REACHED = 0.7
"""Share of the peak of arithmetic that kernels reach."""
STREAMED = 0.9
"""Share of the bandwidth at which they read weights."""
SLOWEST_READ = 2.5
"""How many times the time at full bandwidth an engine takes at most to read keys and values."""

FULL = 0.9
"""Share of the cache from which on requests wait for a place in it."""
BUSY = 0.5
"""Share of what clients could keep running on average, below which arrivals and not clients set how many run."""

TOKEN_SHARE = (1e-6, 5e-6)
"""Reading a token's keys and values over reading the weights, of dense models with grouped heads; for unknown models."""

BILLIONS = re.compile(r"(\d+(?:\.\d+)?)B\b", re.IGNORECASE)
"""The number of parameters in the name of a model that is not in the catalogue."""

NARROW = re.compile(r"(?<![a-z0-9])(fp8|w8a8|int8|nv_?fp4|mx_?fp4|fp4)(?![0-9])", re.IGNORECASE)
"""Formats in names of models that compute in 8 or 4 bits."""
STORED = re.compile(r"(?<![a-z0-9])(awq|gptq|int4|w4a16|w8a16)(?![0-9])", re.IGNORECASE)
"""Formats in names of models that store 4 or 8 bits and compute in 16."""
FEWEST_BITS = 4
"""How many times fewer bits than 16 weights have at least."""
MISFIT = 0.1
"""Relative error of a fit from which on its runs are not what their names say."""

SHARED = 6
"""Fitted numbers that all methods share: flat, row, token, experts (in shortest rounds), spread, and a share of the knee."""

NOTHING = 1e-9
"""Room of a number that is not fitted: bounds must differ."""

WIDTHS = (*range(1, 18), 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Sizes at which a profile holds points of the fitted curves."""
UNSAID_CONTEXT = 1024
"""Tokens of a sequence that are taken as measured where no run says how many there were."""


@dataclass(frozen=True)
class Hardware:
    """What the data sheets say of a target on its GPUs.

    `knee_rows`       rows whose arithmetic takes as long as reading the weights, in 16 bits
    `row_seconds`     arithmetic of one row at the peak; `None` for an unknown model
    `token_seconds`   reading the keys and values of one token at full bandwidth; `None` for an unknown model
    `spread`          least and most rows that use 63 % of the experts that one row leaves out; `None` for a dense model
    `read_seconds`    reading the weights of one row in 16 bits at full bandwidth; 0 for an unknown model
    """

    knee_rows: float = 230.0
    row_seconds: float | None = None
    token_seconds: float | None = None
    spread: tuple[float, float] | None = (8.0, 128.0)
    read_seconds: float = 0.0

    @classmethod
    def of(cls, run: EngineRun) -> Hardware:
        """That of a run, as far as its GPU and its target are known by name."""
        billions = BILLIONS.findall(run.target)  # of `30B-A3B`, the last one is what a token uses
        try:
            model = read_model(run.target)
        except InputError:
            model = None
        spread = cls.spread if model is None and len(billions) != 1 else None  # `30B-A3B` has experts, `32B` has none
        if model and model.experts_per_token < model.experts:
            rows = float(-1 / np.log1p(-model.experts_per_token / model.experts))
            spread = rows, rows
        try:
            gpu = GPUS[gpu_name(run.gpu)]
        except InputError:
            return cls(spread=spread)
        knee = REACHED * gpu.operations / (STREAMED * gpu.bandwidth)
        if model is None and not billions:
            return cls(knee, spread=spread)
        parameters = model.parameters_per_token if model else 1e9 * float(billions[-1])
        row = None if NARROW.search(run.target) else 2 * parameters / (run.gpus * gpu.operations)
        token = model.cache_bytes_on_each(run.gpus) / gpu.bandwidth if model else None
        return cls(knee, row, token, spread, 2 * parameters / (run.gpus * gpu.bandwidth))


@dataclass(frozen=True)
class Forward:
    """Seconds of the target's forward, `t` of this module.

    `flat`, `arithmetic`, `row`, `token`   seconds
    `rows`, `sequences`, `context`         the most of each in the runs that it was fitted to
    `experts`, `spread`                    seconds and rows
    """

    flat: float
    arithmetic: float
    row: float
    token: float
    rows: float
    sequences: float
    experts: float = 0.0
    spread: float = 1.0
    context: float = UNSAID_CONTEXT

    def __call__(self, rows: ArrayLike, held: ArrayLike) -> Floats:
        rows, held = np.asarray(rows, float), np.asarray(held, float)
        reading = self.flat + self.experts * -np.expm1((1 - np.maximum(rows, 1.0)) / self.spread)
        knee = (reading**SHARPNESS + (self.arithmetic * rows) ** SHARPNESS) ** (1 / SHARPNESS)
        return knee + self.row * rows + self.token * held


@dataclass(frozen=True)
class Drafting:
    """Seconds of a method's round beside the target's forward.

    `step`       of one guess for each of few sequences
    `sequence`   what a further sequence adds to that
    `overhead`   of a round
    """

    step: float = 0.0
    sequence: float = 0.0
    overhead: float = 0.0

    def __call__(self, draft_length: float, sequences: float) -> float:
        return draft_length * (self.step + self.sequence * sequences) + self.overhead


@dataclass(frozen=True)
class Identified:
    """What was found in the runs of one target.

    `forward`    of the target
    `drafting`   by method and name of the draft
    `misfit`     root mean square of the relative errors of the runs' round times
    `doubts`     what does not agree with the names of target and GPU, or cannot be seen in these runs
    """

    forward: Forward
    drafting: Mapping[tuple[str, str], Drafting]
    misfit: float
    doubts: tuple[str, ...] = ()


def round_seconds(run: EngineRun) -> float:
    """Seconds of a round of a run: its median ITL, or a mean that stands for it. Raises `InputError` for a run without any."""
    found = run.itl.median or run.itl.mean
    if found is None and run.tpot.mean is not None and (run.acceptance_length is not None or run.draft_length == 0):
        found = run.tpot.mean * (run.acceptance_length or 1.0)
    if not found:
        lacking = "its TPOT without tokens of a round" if run.tpot.mean else "no time between tokens"
        raise InputError(f"{run.source} holds {lacking}: give a run with its ITL, or with its TPOT and its acceptance length")
    return found


def sequences_of(run: EngineRun) -> float:
    """Sequences that decode at once in most steps of a run: all clients, as far as there are requests and places for them.

    The engine has `max_batch` places; other clients wait. A mean would count the beginning and the end of the run too. It is
    taken where the cache does not hold all of these, and where requests arrive at a rate that leaves many clients without one.
    Raises `InputError` for a run that does not say.
    """
    clients = run.clients and min(run.clients, run.requests or run.clients, run.max_batch or run.clients)
    all_run = (
        clients is not None
        and (run.kv_tokens is None or clients * held_by(run) < FULL * run.kv_tokens)
        and not _waits_for_requests(run, clients)
    )
    found = clients if all_run else run.running or clients
    if not found:
        raise InputError(f"{run.source} does not say how many requests ran at once: give --concurrency to the benchmark")
    return float(found)


def _waits_for_requests(run: EngineRun, clients: int) -> bool:
    """Whether far fewer requests ran than if each of `clients` had had one for as long as there were any.

    Such clients answer all requests in several turns, in the last of which some have none.
    """
    if not (run.rate and run.running):
        return False
    turns = ceil(run.requests / clients) if run.requests else 1
    return run.running < BUSY * (run.requests / turns if run.requests else clients)


def held_by(run: EngineRun, written: float = 0.5) -> float:
    """Tokens that a decoding sequence of a run holds on average: its prompt and that share of its answer; 0 if unknown."""
    if not (run.requests and run.input_tokens and run.output_tokens):
        return 0.0
    return (run.input_tokens + written * run.output_tokens) / run.requests


def _prompts_between(run: EngineRun) -> tuple[float, float]:
    """How many prompts of others a round of a run reads on average, where its time is a mean, and rows of a prompt."""
    if run.itl.median or not (run.requests and run.input_tokens and run.output_tokens):
        return 0.0, 0.0
    rounds = run.output_tokens / run.requests / (length_of(run) or 1.0 if run.draft_length else 1.0)
    return max(0.0, sequences_of(run) - 1) / rounds, run.input_tokens / run.requests


def identify(runs: Sequence[EngineRun], hardware: Hardware | None = None) -> Identified:
    """Fit the runs of one target on one kind of machine; what its data sheets say is looked up unless it is given.

    Raises `InputError` for runs of several, and without a run.
    """
    if len({(run.target, run.gpu, run.gpus) for run in runs}) != 1:
        raise InputError("a profile is identified from runs of one target on one machine: give one or more of these alone")
    hardware = hardware or Hardware.of(runs[0])
    seconds = np.array([round_seconds(run) for run in runs])
    sequences = np.array([sequences_of(run) for run in runs])
    lengths = np.array([float(run.draft_length) for run in runs])
    held = sequences * np.array([held_by(run) for run in runs])
    methods = sorted({(run.method, run.draft) for run in runs if run.draft_length})
    which = np.array([methods.index((run.method, run.draft)) if run.draft_length else -1 for run in runs])
    rows, least = sequences * (lengths + 1), float(seconds.min())
    context = max(held_by(run, 1.0) for run in runs) or UNSAID_CONTEXT
    doubts: list[str] = []
    where = f"{runs[0].target or 'the target'} on {runs[0].gpu or 'unknown GPUs'}, tp {runs[0].gpus}"
    if hardware.row_seconds is None and not hardware.read_seconds:
        doubts.append(
            f"the size or the GPU of {where} is not known by name, so forwards of many rows may take far longer than fitted: "
            "give target with its size, such as acme/chat-32B, and gpu, such as H100"
        )
    if least < hardware.read_seconds:
        doubts.append(
            f"rounds of {where} take {1e3 * least:.3g} ms, and reading its weights in 16 bits at least "
            f"{1e3 * hardware.read_seconds:.3g} ms: quantised weights or more GPUs are assumed"
            + ("" if least > hardware.read_seconds / FEWEST_BITS else "; check gpu, tp and the units")
        )
        if not STORED.search(runs[0].target):
            hardware = replace(hardware, row_seconds=None)
    prompts, prompt_rows = np.array([_prompts_between(run) for run in runs]).T

    def forward(x: Floats) -> Forward:
        (flat, row, token, experts), spread, knee = map(float, least * x[:4]), *map(float, x[4:SHARED])
        arithmetic = knee * flat / hardware.knee_rows if hardware.row_seconds is None else hardware.row_seconds / REACHED
        return Forward(flat, arithmetic, row, token, float(rows.max()), float(sequences.max()), experts, spread, context)

    def drafting(x: Floats) -> Floats:
        """Shape (methods, 3): step, sequence, overhead."""
        return least * x[SHARED:].reshape(-1, 3)

    def wrong(x: Floats) -> Floats:
        costs = np.vstack((drafting(x), np.zeros(3)))[which]
        target = forward(x)
        made = target(rows, held) + lengths * (costs[:, 0] + costs[:, 1] * sequences) + costs[:, 2]
        made += prompts * (target(rows + prompt_rows, held) - target(rows, held))
        return np.log(made / seconds)

    low, high, start, rest = _bounds(least, hardware, len(methods))
    ridge = 1e-3 / np.maximum(start, 1e-6)

    def residuals(x: Floats) -> Floats:
        return np.concatenate((wrong(x), ridge * (x - rest)))  # of equal fits, the one with the least of everything

    found = least_squares(residuals, start, bounds=(low, high), x_scale=np.maximum(start, 1e-6))
    costs = {method: Drafting(*map(float, row)) for method, row in zip(methods, drafting(found.x), strict=True)}
    misfit = float(np.sqrt(np.mean(wrong(found.x) ** 2)))
    if misfit > MISFIT:
        doubts.append(f"times are {100 * misfit:.0f} % off any fit for {where}: check gpu, tp and the units")
    if sequences.max() < 2 * sequences.min():
        doubts.append(
            f"all runs of {where} to calibrate on decode about {sequences.mean():.0f} requests at once: "
            "other loads are extrapolated, so add runs at another concurrency"
        )
    return Identified(forward(found.x), costs, misfit, tuple(doubts))


def _bounds(least: float, hardware: Hardware, methods: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Lower bounds, upper bounds, a start, and where to stay without a reason: in units of the shortest round, of rows, and of
    the arithmetic that the knee says."""
    token = TOKEN_SHARE
    if hardware.token_seconds is not None:
        token = (hardware.token_seconds / least, SLOWEST_READ * hardware.token_seconds / least)
    elif hardware.spread is not None:
        token = (0.0, TOKEN_SHARE[1])
    experts = (0.0, NOTHING if hardware.spread is None else 5.0)
    first, last = hardware.spread or (1.0, 1.0)
    pairs = [(0.1, 1.2), (0.0, 1.0), token, experts, (first, last + NOTHING), (0.5, 1.0)]
    low, high = np.array(pairs + [(0.0, 5.0), (0.0, 1.0), (0.0, 2.0)] * methods).T
    start = np.array([0.9, 1e-3, fmean(token), 0.05, fmean((first, last)), 1.0] + [0.05, 1e-3, 0.02] * methods)
    start, rest = np.clip(start, low + 1e-9 * (high - low), high - 1e-9 * (high - low)), low.copy()
    rest[4:SHARED] = start[4:SHARED]
    return low, high, start, rest


def pool_of(run: EngineRun) -> int | None:
    """Tokens that the cache holds by the sizes of GPU, target and draft model; `None` where one is not known by name."""
    models = (run.target, run.draft) if run.method == DRAFT_MODEL else (run.target,)
    try:
        return kv_tokens(run.gpu, *map(read_model, models), gpus=run.gpus) if run.gpu and all(models) else None
    except InputError:
        return None


def with_pools(runs: Sequence[EngineRun], kv_tokens: int | None = None) -> list[EngineRun]:
    """The runs with the size of their cache: where they do not say it `kv_tokens`, and without that `pool_of`."""
    return [replace(run, kv_tokens=run.kv_tokens or kv_tokens or pool_of(run)) for run in runs]


def _with(sizes: Sequence[int], most: float) -> list[int]:
    """These sizes and the largest that was measured, if it lies between them."""
    return sorted({*sizes, max(1, min(int(most), sizes[-1]))})


def as_profile(identified: Identified, runs: Sequence[EngineRun]) -> Profile:
    """The profile of one method, from what all runs of its target gave and from `runs`, those of this method and its prompts.

    Both models are on the same GPUs and work in turn, as engines have it. Points of fitted curves are tagged *fitted* up to the
    most rows and sequences of a measured round, and *extrapolated* beyond. The largest context is the longest in a run.
    Acceptance is *measured* where the engine counted every position, and *fitted* to mean acceptance lengths.
    """
    first, forward = runs[0], identified.forward
    drafting = identified.drafting[first.method, first.draft] if first.draft_length else Drafting()

    def tag(rows: int, sequences: int) -> Tag:
        return "fitted" if rows <= forward.rows and sequences <= forward.sequences else "extrapolated"

    widths, batches = _with(WIDTHS, forward.rows), _with(BATCHES, forward.sequences)
    sizes = [(width, 1, held) for width in widths for held in (0, round(forward.context))]
    sizes += [(1, batch, 0) for batch in batches[1:]]
    target = tuple(
        TargetTiming(width, batch, held, float(forward(width * batch, held)), tag=tag(width * batch, batch))
        for width, batch, held in sizes
    )
    draft = tuple(
        DraftTiming(batch, 0, max(drafting.step + drafting.sequence * batch, 1e-9), tag=tag(batch, batch))
        for batch in (batches if first.draft_length else ())
    )
    pools = [run.kv_tokens for run in runs if run.kv_tokens]
    return Profile(
        target,
        draft,
        pair=PairNames(first.target, next((run.draft for run in runs if run.draft), "")),
        together=None,
        drafting_overhead_seconds=drafting.overhead,
        acceptance=MeasuredAcceptance(by_position=conditional(runs), tag="measured" if counted(runs) else "fitted"),
        kv_tokens=min(pools) if pools else None,
        tags={"round_overhead_seconds": "assumed", "drafting_overhead_seconds": "fitted", "draft_start_seconds": "assumed"},
    )
