"""From logits to the distribution that is sampled, the same way for `p` and for `q`.

Every step is a logits processor of Hugging Face, so any other can be added. Temperature 0 is greedy decoding. Softmax runs in
float32 at least, whatever the model's dtype: to draw in bfloat16 and to test in float32 would be two different `q`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specdec.errors import ModelError, SamplingError
from specdec.inputs import plain_fields
from specdec.verification import Row

CONTEXT_FREE = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Processors that never look at the tokens before, so that all positions of a window go through them at once."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from logits. Names and meanings are those of `transformers.GenerationConfig`.

    `temperature` 1.0 is the model's own law, 0.0 is greedy. `logits_processor` come after the repetition penalty and before the
    temperature, as in `generate`. All of them apply to `p` and to `q`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    logits_processor: Sequence[Any] = ()

    def __post_init__(self) -> None:
        plain_fields(self)

        def need(ok: bool, name: str, remedy: str) -> None:
            if not ok:
                raise SamplingError(f"{name} {getattr(self, name)!r} is not possible: {remedy}")

        need(number(self.temperature) and self.temperature >= 0, "temperature", "give 0 (greedy) or a positive number")
        need(self.top_k is None or (isinstance(self.top_k, int) and self.top_k >= 1), "top_k", "give an integer of at least 1")
        top_p, min_p, penalty = self.top_p, self.min_p, self.repetition_penalty
        need(top_p is None or (number(top_p) and 0 < top_p <= 1), "top_p", "give a number in (0, 1]")
        need(min_p is None or (number(min_p) and 0 <= min_p <= 1), "min_p", "give a number in [0, 1]")
        need(penalty is None or (number(penalty) and penalty > 0), "repetition_penalty", "give a positive number")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def processors(self) -> LogitsProcessorList:
        """The processors in the order in which `generate` applies them."""
        chain = LogitsProcessorList()
        if self.repetition_penalty is not None:
            chain.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        chain.extend(self.logits_processor)
        if self.temperature not in (0, 1):
            chain.append(TemperatureLogitsWarper(float(self.temperature)))
        if not self.greedy:
            if self.top_k is not None:
                chain.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None:
                chain.append(TopPLogitsWarper(self.top_p))
            if self.min_p is not None:
                chain.append(MinPLogitsWarper(self.min_p))
        return chain


def number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


class Sampler:
    """Turns logits into probabilities or greedy choices. If it is `context_free`, logits of many contexts may go in at once."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.greedy = sampling.greedy
        self._processors = sampling.processors()
        self._own: LogitsProcessorList | None = None
        self.context_free = all(type(processor) in CONTEXT_FREE for processor in self._processors)

    def probabilities(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        """Rows after the last `n` prefixes of `context`, from logits of shape (n, vocabulary)."""
        rows = self.rows(self.processed(logits, context))
        if not math.isfinite(float(rows.sum())):
            raise self._broken(logits)
        return rows

    def best(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        """The greedy choice of each row, shape (n,)."""
        tokens = greedy_choice(self.processed(logits, context))
        if bool((tokens == NOT_A_TOKEN).any()):
            raise self._broken(logits)
        return tokens

    def rows(self, scores: Tensor) -> Tensor:
        """The softmax of processed scores. Greedily a forced token, which has +inf, has all the probability."""
        return (scores.clamp(max=torch.finfo(scores.dtype).max) if self.greedy else scores).softmax(-1)

    def _broken(self, logits: Tensor) -> ModelError:
        """Whose fault it is that processed logits are no distribution: that of the processors, if the logits were one."""
        if not self._processors or not bool(logits.softmax(-1).sum().isfinite()):
            return not_a_distribution()
        names = ", ".join(type(processor).__name__ for processor in self._processors)
        return ModelError(
            f"no token can be drawn after the logits processors ({names}): they leave NaN, no token, or +inf while sampling; "
            "let them allow some tokens, and force one by -inf for all others"
        )

    def processed(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        """Logits as the softmax takes them. `context` is not used where the sampler is `context_free`.

        Greedy choices are among float32 scores, as in `generate`, so that ties are the same.
        """
        if self.greedy or logits.dtype != torch.float64:
            logits = logits.float()
        if not self._processors:
            return logits
        if self.context_free:
            return self._processors(None, logits)  # type: ignore[arg-type]
        return self._row_by_row(logits, context)

    def _row_by_row(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        """Each row processed with the tokens before it."""
        if self._own is None:
            self._own = LogitsProcessorList(own_copy(processor, logits.device) for processor in self._processors)
        ids: Any = torch.tensor([list(context)], device=logits.device)
        first = len(context) - len(logits) + 1
        return torch.cat([self._own(ids[:, : first + i], logits[i : i + 1].clone()) for i in range(len(logits))])


def own_copy(processor: Any, device: torch.device, copies: dict[int, Any] | None = None) -> Any:
    """A shallow copy of a processor, with its tensors and generators on `device`, and with such copies of processors in it.

    One object may be given to both models, which work at the same time, on devices of their own. `copies` are those that were
    made already, by the `id` of what they are copies of: processors may lead back to each other.
    """
    copies = {} if copies is None else copies
    if id(processor) in copies:
        return copies[id(processor)]
    twin = copy.copy(processor)
    if twin is processor or not hasattr(twin, "__dict__"):
        return processor
    copies[id(processor)] = twin
    for name, value in vars(twin).items():
        if isinstance(value, Tensor):
            vars(twin)[name] = value.to(device)
        elif isinstance(value, torch.Generator):
            vars(twin)[name] = torch.Generator(device).manual_seed(value.initial_seed())
        elif isinstance(value, LogitsProcessor):
            vars(twin)[name] = own_copy(value, device, copies)
    return twin


class Dice:
    """Fresh uniforms from one seeded source. Implements `verification.Chance` for rows of torch or numpy."""

    _race: int | None = None

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def uniform(self) -> float:
        """A new uniform in [0, 1)."""
        return self._random.random()

    def leading(self, probabilities: Iterable[Any]) -> int:
        count = 0
        for probability in probabilities:
            if self.uniform() >= probability:
                break
            count += 1
        return count

    def last(self, probabilities: Sequence[Any]) -> int:
        return max((i for i, probability in enumerate(probabilities, start=1) if self.uniform() < probability), default=0)

    def pick(self, weights: Row) -> int:
        if self._race is None:
            return inverted(weights, self.uniform())
        race, self._race = self._race, None
        return raced(weights, race)

    def race(self) -> int:
        """The seed of the noise that the next token is picked by. A draft that knows it may foresee that token."""
        if self._race is None:
            self._race = self._random.getrandbits(63)
        return self._race


def inverted(weights: Row, uniform: float) -> int:
    """A token by inversion of the cumulative weights, in float64. A token of weight 0 is never picked."""
    weights = weights.cpu().numpy() if isinstance(weights, Tensor) else weights
    cumulative = weights.astype(np.float64).cumsum()  # faster than to convert while adding
    total = cumulative[-1]
    index = int(cumulative.searchsorted(uniform * total, side="right"))
    return index if index < len(cumulative) else int(cumulative.searchsorted(total))  # where u * total rounds to total


def race_noise(race: int, tokens: int) -> Tensor:
    """An exponential random number for each token, shape (`tokens`,), float64, on the CPU: the same wherever it is made."""
    noise = torch.empty(tokens, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(race))
    return noise.clamp_(min=torch.finfo(torch.float64).tiny)


def raced(weights: Row, race: int) -> int:
    """A token by a race: the one with the largest weight over noise. It is picked in proportion to its weight.

    Two distributions that meet the same noise mostly pick the same token: with a probability of at least (1 - t) / (1 + t),
    where `t` is their total variation. Source: Daliri, Musco and Suresh (arXiv 2408.07978).
    """
    weights = torch.as_tensor(weights).cpu().double()
    return int((weights / race_noise(race, len(weights))).argmax())


NOT_A_TOKEN = -1
"""Stands for the token of a row that is no distribution, until the host looks at it."""


def greedy_choice(scores: Tensor) -> Tensor:
    """The greedy choice of each row, shape (rows,), from processed logits. Does not wait for the device.

    A score of +inf is the largest, as for `generate`. A row of NaN or of -inf alone gives `NOT_A_TOKEN`.
    """
    values, tokens = scores.max(-1)
    return tokens.where(values > -torch.inf, NOT_A_TOKEN)


def picked(weights: Tensor, uniforms: Tensor) -> Tensor:
    """What `inverted` would return for each row and its uniform, shape (rows,). Does not wait for the device.

    A CPU sums in order, so the cumulative weights can be searched. Parallel sums may differ in their last digit, even where a
    weight is 0. Hence tokens of weight 0 are left out elsewhere.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    if weights.is_cpu:
        total = cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, uniforms.unsqueeze(-1) * total, right=True)
    else:
        cumulative = cumulative.where(weights > 0, 0)
        total = cumulative.amax(-1, keepdim=True)
        tokens = (cumulative > uniforms.unsqueeze(-1) * total).byte().argmax(-1, keepdim=True)
    return tokens.where(total > 0, NOT_A_TOKEN).squeeze(-1)


def not_a_distribution() -> ModelError:
    """The error for logits that have no softmax."""
    return ModelError("a model answered logits with NaN or without any finite value: check its weights and dtype")
