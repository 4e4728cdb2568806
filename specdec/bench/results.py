"""Makes the report of a benchmark: speeds, paired ratios with their intervals, rankings, predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import reduce
from operator import add
from statistics import mean, median
from typing import Any

import torch

from specdec.bench.compare import Speed, compared, compared_by_prompt
from specdec.bench.greedy import greedy_check
from specdec.bench.peers import COUNTERPARTS, SECONDS
from specdec.bench.prediction import Question, predicted, steps_of
from specdec.bench.report import BenchReport
from specdec.bench.run import Benchmark, Contender, Ours, drafted_at_once
from specdec.bench.values import BASELINE, BenchHardware, BenchResult, BenchSettings, Noise, PeerComparison, Ranking, Slower
from specdec.machine import versions
from specdec.measure import hardware
from specdec.settings import Options, resolve
from specdec.statistics import Statistics
from specdec.strategy import DraftingStrategy
from specdec.summary import DescribedPair
from specdec.synthetic import synthetic
from specdec.verification import is_lossless


def report_of(benchmark: Benchmark, *, prompts_file: str = "", interrupted: bool = False) -> BenchReport:
    """The report of everything that was measured so far."""
    measured = bool(benchmark.decodes)
    temperatures = benchmark.temperatures if measured else ()
    comparable = 0 in temperatures and not synthetic(benchmark.verification)
    return BenchReport(
        pair=DescribedPair.of(benchmark.pair),
        hardware=_hardware(benchmark),
        settings=settings(benchmark, prompts_file, interrupted),
        measured=benchmark.measured,
        noise=Noise(busy=0.0 if benchmark.others is None else benchmark.others.share(), slowed=slowed(benchmark)),
        results=tuple(result(benchmark, contender) for contender in benchmark.contenders if measured),
        ranking=tuple(ranking(benchmark, temperature) for temperature in temperatures),
        against=tuple(entry for temperature in temperatures for entry in against(benchmark, temperature)),
        greedy_check=greedy_check(benchmark) if comparable else None,
    )


def _hardware(benchmark: Benchmark) -> BenchHardware:
    found = versions()
    return BenchHardware(
        **vars(hardware(benchmark.pair)),
        python=found["python"],
        torch=found["torch"],
        transformers=found["transformers"],
        specdec=found["pearl-specdec"],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def settings(benchmark: Benchmark, prompts_file: str, interrupted: bool) -> BenchSettings:
    """What all contenders had in common."""
    repeats, prompts = benchmark.shape
    lane, forced = benchmark.pair.draft_lane(), synthetic(benchmark.verification)
    return BenchSettings(
        temperatures=tuple(benchmark.temperatures),
        max_new_tokens=benchmark.max_new_tokens,
        repeats=repeats,
        repeats_planned=benchmark.repeats,
        prompts=prompts,
        verification=benchmark.verification,
        synthetic=forced.mark if forced else "",
        why_eager=benchmark.pair.why_eager(),
        seed=benchmark.seed,
        dtype=str(benchmark.pair.target.dtype).removeprefix("torch."),
        target_threads=torch.get_num_threads(),
        draft_lane=None if lane is None else type(lane).__name__.removesuffix("Lane").lower(),
        peer_seconds=SECONDS if benchmark.peers else None,
        prompts_file=prompts_file,
        checkpoint=of_checkpoint(benchmark),
        interrupted=interrupted,
    )


def slowed(benchmark: Benchmark) -> float:
    """How many times longer than beforehand a single-row forward of the target took in autoregressive decodes; the median."""
    if benchmark.measured is None or not benchmark.decodes:
        return 1.0
    contenders = [benchmark.baseline(temperature) for temperature in benchmark.temperatures]
    counts = [decoded[contender].statistics for decoded in benchmark.reported_decodes for contender in contenders]
    seconds = [count.window_seconds[1] / count.window_forwards[1] for count in counts if count.window_forwards[1]]
    return median(seconds) / benchmark.measured.target_window_seconds[1] if seconds else 1.0


def of_checkpoint(benchmark: Benchmark) -> dict[str, Any]:
    """The settings of the checkpoint that all contenders honoured."""
    found: dict[str, Any] = {}
    for temperature in benchmark.temperatures:
        options = Options(benchmark.max_new_tokens, temperature, max_time=math.inf)
        found |= resolve(benchmark.pair.target, benchmark.prompts[0], options).named
    return {name: value for name, value in found.items() if name != "temperature"}


def result(benchmark: Benchmark, contender: Contender) -> BenchResult:
    """The result of one contender over all repeats."""
    decoder = contender.decoder
    speed = Speed.of(benchmark, contender)
    baseline = Speed.of(benchmark, benchmark.baseline(contender.temperature))
    ratio, interval = compared(speed, baseline)
    total = reduce(add, (decoded[contender].statistics for decoded in benchmark.reported_decodes))
    return BenchResult.of(
        total,
        strategy=decoder.name,
        parameters=decoder.parameters,
        lossless_claimed=decoder.lossless and not _loses(benchmark, contender),
        automatic=isinstance(decoder, Ours) and decoder.automatic,
        temperature=contender.temperature,
        tokens_per_second=speed.tokens_per_second,
        speedup_over_ar=ratio,
        speedup_over_ar_interval=interval,
        speedup_over_ar_by_prompt=compared_by_prompt(speed, baseline),
        **(_of_ours(benchmark, contender, decoder, total) if isinstance(decoder, Ours) else {}),
    )


def _loses(benchmark: Benchmark, contender: Contender) -> bool:
    """Whether a lossy rule decides on guesses here: not greedily, not for a peer, and not where nothing is guessed."""
    if synthetic(benchmark.verification) or is_lossless(benchmark.verification):
        return False
    return isinstance(contender.decoder, Ours) and contender.decoder.name != BASELINE and contender.temperature > 0


def _of_ours(benchmark: Benchmark, contender: Contender, decoder: Ours, total: Statistics) -> dict[str, Any]:
    """Fields that only our own strategies have: the draft length, what their decodes measured, and the predictions."""
    strategy, own, before = decoder.strategy, steps_of(total), benchmark.measured
    drafted = drafted_at_once(strategy, benchmark.pair) if isinstance(strategy, DraftingStrategy) else None
    tokens = round(mean(len(decoded[contender].tokens) for decoded in benchmark.reported_decodes))
    context = round(mean(len(prompt) for prompt in benchmark.prompts)) + tokens // 2
    question = Question(strategy, benchmark.verification, context, tokens)
    assert before is not None  # the pair is measured before anything is decoded
    at_temperature = before.at(contender.temperature)
    return {
        "drafted_at_once": drafted,
        "measured": own,
        "predicted_tokens_per_second": predicted(question, at_temperature, before.profile),
        "closed_form_tokens_per_second": predicted(question, own),
    }


def best(benchmark: Benchmark, temperature: float) -> dict[str, Contender]:
    """The fastest setting of each strategy and peer, by name, fastest first."""
    contenders = [contender for contender in benchmark.contenders if contender.temperature == temperature]
    found: dict[str, Contender] = {}
    for contender in sorted(contenders, key=lambda contender: -Speed.of(benchmark, contender).tokens_per_second):
        found.setdefault(contender.decoder.name, contender)
    return found


def ranking(benchmark: Benchmark, temperature: float) -> Ranking:
    """The best setting of each strategy, fastest first, and how many times as fast the first is as the others."""
    first, *others = best(benchmark, temperature).values()
    fastest = Speed.of(benchmark, first)
    slower: list[Slower] = []
    for other in others:
        ratio, interval = compared(fastest, Speed.of(benchmark, other))
        slower.append(Slower(**vars(other.setting), times_as_fast=ratio, interval=interval))
    return Ranking(temperature=temperature, fastest=first.setting, against=tuple(slower))


def against(benchmark: Benchmark, temperature: float) -> Iterator[PeerComparison]:
    """Each peer compared with our strategy of the same algorithm, both at their best setting."""
    contenders = best(benchmark, temperature)
    for peer, ours in COUNTERPARTS.items():
        if peer in contenders and ours in contenders:
            ratio, interval = compared(Speed.of(benchmark, contenders[ours]), Speed.of(benchmark, contenders[peer]))
            yield PeerComparison(
                temperature=temperature,
                peer=peer,
                peer_parameters=contenders[peer].decoder.parameters,
                ours=ours,
                parameters=contenders[ours].decoder.parameters,
                times_as_fast=ratio,
                interval=interval,
            )
