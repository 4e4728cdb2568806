"""Decode one prompt or many to their ends.

    result = decode(pair, strategy, "def add(a, b):", max_new_tokens=64)
    results = decode(pair, strategy, prompts, batch_size=8)

`Decoding` decodes one prompt a round at a time, for streaming. Its `result()` holds what was committed so far, after an error
too.
The loop itself is `specdec.batch.Batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from specdec.batch import Batch
from specdec.errors import ModelError
from specdec.output import Result, Round
from specdec.pair import Pair
from specdec.settings import Settings
from specdec.strategy import DecodingStrategy
from specdec.text import Prompt, prompt_tokens


class Decoding(Iterator[Round]):
    """One decode, a round at a time. Parameters are those of `decode`."""

    def __init__(self, pair: Pair, strategy: DecodingStrategy, prompt: Prompt, **options: Any) -> None:
        self._batch = Batch(pair, strategy, [prompt_tokens(pair, prompt)], batch_size=1, **options)

    def __next__(self) -> Round:
        return next(self._batch)[1]

    def result(self) -> Result:
        """What was committed so far."""
        return self._batch.outputs[0].result()

    @property
    def settings(self) -> Settings:
        """What was chosen for the prompt: what the options say, and else what the checkpoint says."""
        return self._batch.outputs[0].settings


@overload
def decode(pair: Pair, strategy: DecodingStrategy, prompt: Prompt, **options: Any) -> Result: ...


@overload
def decode(
    pair: Pair,
    strategy: DecodingStrategy,
    prompt: Sequence[Prompt],
    *,
    batch_size: int,
    **options: Any,
) -> list[Result]: ...


def decode(
    pair: Pair, strategy: DecodingStrategy, prompt: Any, *, batch_size: int | None = None, **options: Any
) -> Result | list[Result]:
    """Decode one prompt to its end or, with a `batch_size`, a list of prompts, so many at a time.

    `prompt`              text; token ids, as a sequence, a tensor or what a tokenizer returned; or a list of messages,
                          `[{"role": "user", "content": ...}]`, for the chat template of the pair's tokenizer. With a
                          `batch_size`, a list of these, or a padded batch that a tokenizer returned
    `temperature`         0 is greedy. Unless given, outputs are sampled or greedy as the checkpoint says: as in `generate`
    `top_k`, `top_p`, `min_p`, `repetition_penalty`   as in `specdec.Sampling`; the checkpoint's unless given
    `logits_processor`    further processors; their answers must depend on nothing but their arguments
    `max_new_tokens`      budget; the checkpoint's unless given, and 128 where it names none; the context limit of the target
                          ends an output too
    `stop_strings`        end with the token that completes one of these; the checkpoint's unless given, `()` for none
    `eos`                 a token id or token ids that end the output; the checkpoint's unless given, `()` for none
    `max_time`            seconds after which the output ends; the checkpoint's unless given, infinite for no limit
    `stop`                a function of all tokens so far; it names a reason to end, or returns `None`
    `settings`            complete `specdec.settings.Settings` instead of all the above but `stop`: the checkpoint is not asked
    `verification`        a rule's name, such as `"token"`, `"match"` or `"block"`, or a `specdec.verification.Rule`; or forced
                          acceptance, for speed only, as in `specdec.synthetic`. At temperature 0 all rules are the same, and
                          none is called
    `antiphase`           with a `batch_size`: decode in two halves, one drafted while the other is verified (see `Batch`)
    `seed`                the same seed gives the same tokens, on every lane and in every batch; exactly in float64, and up to
                          rounding in other types. Prompt `i` of a list is decoded with `seed + i`. Strategies that the clock
                          tells how much to draft are the exception: `elastic` by its `Race`, `adaptive` by measured costs.
                          Their tokens differ from run to run, and only their law does not

    Raises

    - `InputError` for a prompt or an option that is not possible, for a setting of the checkpoint that cannot be honoured, and
      for a logits processor that keeps a state; `PairError`, one of its kinds, for a strategy that drafts
      on a pair without a draft, or for a stop rule or logits processor that the draft's process cannot import;
    - `StrategyError` for a strategy that breaks a rule of `specdec.effects`, such as a round that commits no token;
    - `ModelError` for a target that fails, or whose logits are no distribution. The error's `results` hold what was committed
      by then.

    A draft that is lost (its process ends or hangs, or it fails) is no error. A `RuntimeWarning` says so, all later tokens are
    decoded autoregressively, and `statistics.draft_failure` holds the reason.
    """
    prompts, size = ([prompt_tokens(pair, prompt)], 1) if batch_size is None else (prompt, batch_size)
    batch = Batch(pair, strategy, prompts, batch_size=size, **options)
    try:
        while batch.step():
            pass
    except ModelError as error:
        error.results = tuple(output.result() for output in batch.outputs)
        raise
    results = [output.result() for output in batch.outputs]
    return results[0] if batch_size is None else results
