"""Estimates how well a draft foresees the target's own tokens, from rows of both on one text.

The races are those of a decode (`specdec.sampling.raced`): both models meet the same noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.acceptance import MOST_FORESEEN, ForesightSums

RACES = 16
"""Races at each position."""


def foresight_sums(p: Tensor, q: Tensor, ranking: Tensor | None = None, races: int = RACES) -> ForesightSums:
    """Sums over the positions of one text, by `races` races at each; greedily by none.

    `p`, `q`     rows of target and draft, shape (positions, vocabulary); one-hot when greedy
    `ranking`    the draft's rows behind a greedy choice, by which it foresees tokens; `None` when sampled

    A guess `d` is rejected with the chance of `[q(d) - p(d)]+`, and the token in its place has that of `[p - q]+` (token rule).
    """
    generator = torch.Generator().manual_seed(len(p))
    wrong, missing = (q - p).clamp(min=0), (p - q).clamp(min=0)
    rejected = missing.sum(-1)
    accepted = torch.cat([torch.ones_like(rejected[:1]), 1 - rejected[:-1]])  # all before, for which the last one stands
    some, tiny = (rejected > 0) & (wrong.sum(-1) > 0), torch.finfo(p.dtype).tiny
    first = min(MOST_FORESEEN, p.shape[-1])
    sums = torch.zeros(2, MOST_FORESEEN, dtype=p.dtype)
    races = races if ranking is None else 1
    for _ in range(races):
        noise = torch.empty_like(p).exponential_(generator=generator).clamp_(min=tiny) if ranking is None else 1.0
        order = (q if ranking is None else ranking) / noise
        found = order.topk(first).indices == (p / noise).argmax(-1, keepdim=True)
        sums[1] += _by_number(found, accepted) / races
        guess = torch.multinomial(wrong[some], 1, generator=generator)
        found = order[some].scatter(1, guess, -1).topk(first).indices == (missing / noise)[some].argmax(-1, keepdim=True)
        sums[0] += _by_number(found, rejected[some]) / races
    return ForesightSums(float(rejected.sum()), float(accepted.sum()), *(tuple(row) for row in sums.tolist()))


def _by_number(found: Tensor, weights: Tensor) -> Tensor:
    """Weights of the positions whose token is among the first 1, 2, ...; shape (`MOST_FORESEEN`,)."""
    sums = (found.double().cumsum(-1) * weights.unsqueeze(-1)).sum(0)
    return torch.cat([sums, sums[-1:].expand(MOST_FORESEEN - len(sums))])
