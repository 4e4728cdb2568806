"""Checks whether greedy outputs are the target's own, token for token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specdec.bench.run import Benchmark
from specdec.bench.values import Difference, GreedyCheck
from specdec.pair import Pair
from specdec.sampling import Sampler
from specdec.settings import Options, resolve
from specdec.summary import StrategySetting

TIE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Two logits that differ by at most this share of the largest one are a tie: forwards of two widths may round them apart."""


def greedy_check(benchmark: Benchmark) -> GreedyCheck:
    """Compare the greedy outputs of the first repeat with the baseline's."""
    baseline = benchmark.baseline(0)
    first_repeat = benchmark.decodes[: len(benchmark.prompts)]
    differences: list[Difference] = []
    for i, decoded in enumerate(first_repeat):
        theirs = decoded[baseline].tokens
        for contender, result in decoded.items():
            shared = min(len(result.tokens), len(theirs))  # a peer has less room where it decodes within the draft's context
            if contender.temperature == 0 and result.tokens[:shared] != theirs[:shared]:
                differences.append(
                    difference(benchmark.pair, contender.setting, i, benchmark.prompts[i], result.tokens, theirs)
                )
    return GreedyCheck(prompts=len(first_repeat), equal=not differences, differences=tuple(differences))


def difference(
    pair: Pair, setting: StrategySetting, number: int, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]
) -> Difference:
    """Where the greedy outputs of a `setting` and the baseline begin to differ on prompt `number`, and whether it is a tie."""
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    context, budget = [*prompt, *theirs[:at]], max(len(ours), len(theirs))
    sampling = resolve(pair.target, prompt, Options(temperature=0, max_new_tokens=budget)).sampling
    with torch.inference_mode(), pair.turn(drafts=False) as (target, _):
        [raw] = target.submit("logits", [(0, context, 1)])()
    logits = Sampler(sampling).processed(raw, context)[0].double()
    margin = abs(float(logits[ours[at]] - logits[theirs[at]]))
    return Difference(
        strategy=setting.strategy,
        parameters=setting.parameters,
        prompt=number,
        position=at,
        tokens=(ours[at], theirs[at]),
        logit_margin=margin,
        tie=margin <= TIE[pair.target.dtype] * float(logits[logits.isfinite()].abs().max()),
    )
