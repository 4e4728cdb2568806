"""Measures how often a drafted token is accepted, without speculative decoding.

On text that the target sampled, the token `y` at a position would have been an accepted draft token with probability
min(1, q(y) / p(y)), independently of other positions given the text. The rate at a position is sum_x min(p(x), q(x)).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from specdec.errors import InputError
from specdec.pair import Pair
from specdec.runtime.messages import DraftRequest
from specdec.runtime.runner import Runner
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler, Sampling


@dataclass(frozen=True)
class SampledAcceptance:
    """How often a drafted token is accepted on text that the target sampled (token rule).

    `rate`          mean over positions of sum_x min(p(x), q(x)); 0.0 without any position
    `run_lengths`   number of runs by their length; a run is the accepted tokens between two rejections
    `positions`     number of positions in the mean
    """

    rate: float
    run_lengths: dict[int, int]
    positions: int


@torch.inference_mode()
def measure_acceptance(
    pair: Pair, prompts: Sequence[Sequence[int]], new_tokens: int = 64, seed: int = 0, **sampling: Any
) -> SampledAcceptance:
    """Measure acceptance on text that the target samples after each of `prompts` (token ids).

    `new_tokens` are sampled after a prompt, or as many as the context holds; a prompt that fills the context is skipped.
    `sampling` are fields of `Sampling`. Raises `InputError` for a pair without a draft.
    """
    if pair.draft is None:
        raise InputError("acceptance needs a draft model: give the pair one")
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
    return SampledAcceptance(mean(rates) if rates else 0.0, dict(sorted(runs.items())), len(rates))


def _rows(sampler: Sampler, logits: Tensor, context: Sequence[int]) -> Tensor:
    """The rows that tokens are drawn from, shape (n, vocabulary); one-hot when greedy."""
    if sampler.greedy:
        return one_hot(sampler.best(logits, context), logits.shape[-1])
    return sampler.probabilities(logits, context)


def _complete_runs(bits: Sequence[bool]) -> list[int]:
    """Lengths of the runs of accepted tokens that a rejection ended; the unfinished last run is left out.

    `bits` says for each position of all texts, one after the other, whether it was accepted. Leaving a run out of every text
    would lose long runs more often than short ones.
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
