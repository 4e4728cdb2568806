"""How often a drafted token is accepted, measured without speculative decoding.

On text that the target sampled, the token `y` at a position would have been an accepted draft with probability
min(1, q(y) / p(y)), independently of the others given the text, and sum_x min(p(x), q(x)) is the rate there.
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

from specdec.pair import Pair
from specdec.runtime.messages import DraftRequest
from specdec.runtime.runner import Runner
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler, Sampling


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


@torch.inference_mode()
def acceptance(
    pair: Pair, prompts: Sequence[Sequence[int]], new_tokens: int = 64, seed: int = 0, **sampling: Any
) -> Acceptance:
    """Measure acceptance on text that the target samples behind `prompts` (token ids); `sampling` as in `Sampling`."""
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
    """The distributions that tokens are drawn from, shape (n, vocabulary): all mass on one token when greedy."""
    if sampler.greedy:
        return one_hot(sampler.best(logits, context), logits.shape[-1])
    return sampler.probabilities(logits, context)


def _complete_runs(bits: Sequence[bool]) -> list[int]:
    """Lengths of runs of accepted tokens, each ended by a rejection; the unfinished last one is left out.

    `bits` are those of all texts in one stream. To leave one run out of each text would lose long runs more often than short
    ones.
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
