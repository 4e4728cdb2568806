"""Measures how often a drafted token is accepted, and how well the draft foresees tokens, without speculative decoding.

On text that the target sampled, the token `y` at a position would have been an accepted draft token with probability
min(1, q(y) / p(y)), independently of other positions given the text. The rate at a position is sum_x min(p(x), q(x)).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from specdec.acceptance import MOST_FORESEEN, ForesightSums
from specdec.errors import InputError, ModelError
from specdec.law.lossy import MeasuredLoss, measured_loss
from specdec.pair import Pair
from specdec.runtime.lane import Lane
from specdec.runtime.messages import DraftRequest, ScoreRequest
from specdec.sampling import Dice
from specdec.settings import Options, resolve
from specdec.summary import DescribedPair
from specdec.verification import Rule

TOSSES = 16
"""How often the chances of a text are tossed, since one toss says less than they do."""

RACES = 16
"""How often both models race at each position, for what the draft foresees."""


@dataclass(frozen=True)
class SampledAcceptance:
    """How often a drafted token is accepted on text that the target sampled (token rule).

    `rate`          mean over positions of sum_x min(p(x), q(x)); 0.0 without any position
    `run_lengths`   number of runs by their length, in `TOSSES` tosses of each text's chances; a run is the accepted tokens
                    between two rejections
    `positions`     number of positions in the mean
    `foreseen`      how well the draft foresees the target's own tokens, as sums over positions
    """

    rate: float
    run_lengths: dict[int, int]
    positions: int
    foreseen: ForesightSums = field(default_factory=ForesightSums)


@dataclass(frozen=True)
class SampledRows:
    """The rows behind each position of one text that the target sampled, and its tokens.

    `p`, `q`    of shape (tokens, vocabulary); one-hot when greedy
    `ranking`   the draft's rows behind a greedy choice; `None` when sampled
    """

    tokens: list[int]
    p: Tensor
    q: Tensor
    ranking: Tensor | None = None


def measure_acceptance(
    pair: Pair, prompts: Sequence[Sequence[int]], new_tokens: int = 64, seed: int = 0, **sampling: Any
) -> SampledAcceptance:
    """Measure acceptance on text that the target samples after each of `prompts` (token ids).

    The texts are those of `sampled_rows`. Raises `InputError` for a pair without a draft.
    """
    rng = random.Random(seed)
    rates: list[float] = []
    kept: list[float] = []
    foreseen = ForesightSums()
    for text in sampled_rows(pair, prompts, new_tokens, seed, **sampling):
        rates += torch.minimum(text.p, text.q).sum(-1).tolist()
        fresh = torch.tensor(text.tokens).unsqueeze(-1)
        kept += (text.q.gather(1, fresh) / text.p.gather(1, fresh)).squeeze(-1).tolist()
        foreseen += foresight_sums(text.p, text.q, text.ranking)
    runs = Counter[int]()
    for _ in range(TOSSES):
        runs.update(_complete_runs([rng.random() < chance for chance in kept]))
    return SampledAcceptance(mean(rates) if rates else 0.0, dict(sorted(runs.items())), len(rates), foreseen)


def measure_loss(
    pair: Pair,
    verifications: Sequence[str | Rule],
    prompts: Sequence[Sequence[int]],
    new_tokens: int = 16,
    seed: int = 0,
    **sampling: Any,
) -> tuple[MeasuredLoss, ...]:
    """The loss of each rule on the same contexts: text that the target samples after each of `prompts` (token ids).

    The law of each next token is computed as if one guess were drawn from `q` and verified, and is compared with `p`: rows are
    exact, and contexts a sample. Parameters are those of `sampled_rows`. The work grows with the square of the vocabulary.
    """
    texts = list(sampled_rows(pair, prompts, new_tokens, seed, **sampling))
    rows = [row for text in texts for row in zip(text.p.numpy(), text.q.numpy(), strict=True)]
    described = str(DescribedPair.of(pair))
    return tuple(measured_loss(verification, rows, described) for verification in verifications)


def sampled_rows(
    pair: Pair, prompts: Sequence[Sequence[int]], new_tokens: int = 64, seed: int = 0, **sampling: Any
) -> Iterator[SampledRows]:
    """The rows of both models on text that the target samples after each of `prompts` (token ids).

    `new_tokens` are sampled after a prompt, or as many as both models hold; a prompt that fills the context is skipped.
    `sampling` are options of `specdec.settings.Options`; the temperature is 1 unless given, and all else is as the checkpoint
    says. Raises `InputError` for a pair without a draft.
    """
    options = Options.of({"temperature": 1.0, "max_new_tokens": new_tokens, **sampling})
    with torch.inference_mode(), pair.turn(drafts=True) as (target, draft):
        if draft is None:
            raise InputError("acceptance needs a draft model: give the pair one")
        pair.matching.require_rows("acceptance")
        for number, prompt in enumerate(prompts):
            count = min(new_tokens, pair.draft_context_limit - len(prompt))
            if count < 1:
                continue
            dice, chosen = Dice(f"{seed} {number}"), resolve(pair.target, prompt, options).sampling
            for lane in (target, draft):
                lane.submit("begin", chosen, ())()
            request = DraftRequest(0, prompt, count, [dice.uniform() for _ in range(count)])
            [written] = target.submit("draft", [request])()
            if written.failure:
                raise ModelError(written.failure)
            text = [*prompt, *written.tokens]
            p, q = (_rows(lane, text[:-1], len(written.tokens), pair.vocabulary) for lane in (target, draft))
            ranking = None
            if chosen.greedy:
                draft.submit("begin", replace(chosen, temperature=1.0, top_k=None, top_p=None, min_p=None), ())()
                ranking = _rows(draft, text[:-1], len(written.tokens), pair.vocabulary)
            yield SampledRows(written.tokens, p, q, ranking)


def _rows(lane: Lane, context: Sequence[int], positions: int, vocabulary: int) -> Tensor:
    """The rows that the last tokens are drawn from, shape (positions, vocabulary); one-hot when greedy."""
    [scoring] = lane.submit("score", [ScoreRequest(0, context, positions)])()
    rows: Tensor = one_hot(torch.tensor(scoring.best), vocabulary) if scoring.p is None else scoring.p
    return rows.double().cpu()


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


def foresight_sums(p: Tensor, q: Tensor, ranking: Tensor | None = None, races: int = RACES) -> ForesightSums:
    """Sums over the positions of one text, by `races` races at each; greedily by none.

    The races are those of a decode (`specdec.sampling.raced`): both models meet the same noise.

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
