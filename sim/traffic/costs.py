"""The seconds of an iteration: the work of all sequences in a batch, on the devices of a `System`.

An iteration has the stages of a round. In each stage, the draft takes as many steps as the sequence that drafts longest, for
the whole batch. The target scores all windows in one forward, whose time is taken at the mean width and the mean context of the
sequences. Both work at the same time or in turn, as the system says.

A model reads prompts in the first stage in which it works. The target's time for a chunk of a prompt is what that many more
positions add to a forward over one position. The draft's time for reading was not measured, so it is estimated: the target's
seconds x draft step / target step.

A latency that depends on neither width nor batch (two constants) makes batches and prompts free: good for checks, not for
capacity.
"""

from __future__ import annotations

import numpy as np

from sim.setup.arrays import Counts, Floats
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.record import Work
from specdec import InputError

PROMPT_POINTS = np.unique(np.concatenate((np.arange(65), 2 ** np.arange(7, 21)))).astype(np.float64)
NOISE_BLOCK = 4096


class IterationCost:
    """A `sim.traffic.record.Cost` of a compiled strategy. Each replica has its own, since each draws its own jitter."""

    def __init__(self, compiled: Compiled, system: System, seed: np.random.SeedSequence) -> None:
        self._system, self._random = compiled.used_on(system), np.random.default_rng(seed)
        stages = range(compiled.positions.shape[-1])
        self._scoring = [stage for stage in stages if compiled.positions[..., stage].any()]
        self._drafting = [stage for stage in stages if compiled.draft_steps[..., stage].any()]
        latency = system.latency
        self._step_seconds = float(latency.target_seconds(1))
        self._prompt_seconds = latency.target_seconds(PROMPT_POINTS + 1) - self._step_seconds
        self._draft_share = 1 / system.speed_ratio
        self._noise = np.empty((len(stages), 2, 0))

    def __call__(self, work: Work) -> tuple[Floats, Floats, Floats]:
        """Seconds of each iteration, and those in which target and draft work; shape (k,) each.

        Raises `InputError` where a latency gives a negative time, or none.
        """
        seconds, target_busy, draft_busy = (np.zeros(len(work.sequences)) for _ in range(3))
        batch = np.maximum(work.sequences, 1)
        context = work.context / batch
        prompt = np.interp(work.prefill, PROMPT_POINTS, self._prompt_seconds) if work.prefill.any() else None
        for stage in range(len(self._noise)):
            target = self._target(work, stage, batch, context, prompt)
            draft = self._draft(work, stage, batch, context, prompt)
            both, target, draft = self._stage_seconds(target, draft)
            seconds += both
            target_busy += target
            draft_busy += draft
        for busy in (target_busy, draft_busy):
            least = np.where(np.isfinite(busy), busy, -np.inf)
            if least.min() < 0:
                at = int(least.argmin())
                raise InputError(
                    f"latency at batch {batch[at]}, context {context[at]:.0f} and {work.prefill[at]} prompt tokens is "
                    f"{busy[at]:g} s: correct the latency, give 0 or more"
                )
        return seconds + self._system.overhead_seconds, target_busy, draft_busy

    def _target(self, work: Work, stage: int, batch: Counts, context: Floats, prompt: Floats | None) -> Floats | float:
        """Seconds of the target's forward over windows and, in its first stage, over prompts."""
        if stage not in self._scoring:
            return 0.0
        positions = work.positions[stage]
        seconds = self._system.latency.target_seconds(positions / batch, batch, context)
        if prompt is not None and stage == self._scoring[0]:
            seconds = np.where((positions == 0) & (work.prefill > 0), self._step_seconds, seconds) + prompt
        if cv := self._system.jitter.target_cv:
            seconds = seconds * self._factors(work, stage, 0, np.log1p(cv**2))
        return seconds

    def _draft(self, work: Work, stage: int, batch: Counts, context: Floats, prompt: Floats | None) -> Floats | float:
        """Seconds of the draft's steps and, in its first stage, of reading prompts."""
        if stage not in self._drafting:
            return 0.0
        steps = work.draft_steps[stage]
        seconds = self._system.latency.draft_seconds(steps, batch, context)
        if prompt is not None and stage == self._drafting[0]:
            seconds = seconds + self._draft_share * prompt
        if cv := self._system.jitter.draft_cv:
            seconds = seconds * self._factors(work, stage, 1, np.log1p(cv**2 / np.maximum(steps, 1)))
        return seconds

    def _factors(self, work: Work, stage: int, model: int, variance: Floats | float) -> Floats:
        """Lognormal factors of mean 1. An iteration has the same ones however many are computed at once."""
        end = work.first + len(work.sequences)
        while end > self._noise.shape[-1]:
            block = self._random.standard_normal((*self._noise.shape[:2], NOISE_BLOCK))
            self._noise = np.concatenate((self._noise, block), axis=-1)
        return np.exp(np.sqrt(variance) * self._noise[stage, model, work.first : end] - variance / 2)

    def _stage_seconds(
        self, target: Floats | float, draft: Floats | float
    ) -> tuple[Floats | float, Floats | float, Floats | float]:
        """The seconds of a stage, and those in which the target and the draft work, from their seconds alone."""
        draft, target = self._system.busy_seconds(draft, target)
        if self._system.in_turn:
            return draft + target, target, draft
        away = 2 * self._system.network_seconds
        return np.maximum(draft + away * np.sign(draft) if away else draft, target), target, draft
