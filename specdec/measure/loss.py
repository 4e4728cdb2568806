"""Measures how lossy verification rules are on rows of a real pair.

On text that the target sampled, the law of the next token is computed as if one guess were drawn from `q` and verified, and is
compared with `p`. Each row is exact; the contexts are a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specdec.law.lossy import MeasuredLoss, measured_loss
from specdec.measure.acceptance import sampled_rows
from specdec.pair import Pair
from specdec.summary import DescribedPair
from specdec.verification import Rule


def measure_loss(
    pair: Pair,
    verifications: Sequence[str | Rule],
    prompts: Sequence[Sequence[int]],
    new_tokens: int = 16,
    seed: int = 0,
    **sampling: Any,
) -> tuple[MeasuredLoss, ...]:
    """The loss of each rule on the same contexts: text that the target samples after each of `prompts` (token ids).

    Parameters are those of `sampled_rows`. The work grows with the square of the vocabulary.
    """
    texts = list(sampled_rows(pair, prompts, new_tokens, seed, **sampling))
    rows = [row for text in texts for row in zip(text.p.numpy(), text.q.numpy(), strict=True)]
    described = str(DescribedPair.of(pair))
    return tuple(measured_loss(verification, rows, described) for verification in verifications)
