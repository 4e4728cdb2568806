"""Parts that several reports share: the pair, a strategy with its parameters, and the counts of decodes. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.report import Parameter, Report, named

if TYPE_CHECKING:
    from typing import Self

    from transformers import PreTrainedModel

    from specdec.pair import Pair
    from specdec.statistics import Statistics


@dataclass(frozen=True)
class DescribedPair(Report):
    """The pair by names, sizes and number format.

    `target`              where the target was loaded from, and `@` with the revision if one was named
    `target_parameters`   number of its weights
    `vocabulary`          number of tokens that the target has a logit for
    `dtype`               number format of the target
    `draft`               where the draft was loaded from, in the same form; null without one
    `draft_parameters`    number of its weights; null without a draft
    `quantization`        method that quantised the target by its config.json, such as torchao; null without one
    `draft_quantization`  the same for the draft
    `small_draft`         where the model was loaded from that drafts for the draft; null without one
    `vocabularies`        how the draft's tokens become the target's: `same` ids, `common` tokens or `text`; null without
    """

    target: str
    target_parameters: int
    vocabulary: int
    dtype: str
    draft: str | None = None
    draft_parameters: int | None = None
    quantization: str | None = None
    draft_quantization: str | None = None
    small_draft: str | None = None
    vocabularies: str | None = None

    @classmethod
    def of(cls, pair: Pair) -> Self:
        """The description of a loaded pair."""
        names = [
            (model_name(model) or "unnamed") + (f"@{revision}" if revision else "")
            for model, revision in zip((pair.target, pair.draft), pair.revisions, strict=True)
            if model is not None
        ]
        return cls(
            target=names[0],
            draft=names[1] if len(names) > 1 else None,
            target_parameters=pair.target.num_parameters(),
            draft_parameters=None if pair.draft is None else pair.draft.num_parameters(),
            vocabulary=pair.vocabulary,
            dtype=str(pair.target.dtype).removeprefix("torch."),
            quantization=_quantization(pair.target),
            draft_quantization=None if pair.draft is None else _quantization(pair.draft),
            small_draft=None if pair.small_draft is None else model_name(pair.small_draft) or "unnamed",
            vocabularies=None if pair.draft is None else pair.matching.way,
        )

    def __str__(self) -> str:
        names = [
            name + (f" ({method})" if method else "")
            for name, method in ((self.target, self.quantization), (self.draft or "no draft", self.draft_quantization))
        ]
        drafts = {"common": ", drafts common tokens", "text": ", drafts text"}.get(self.vocabularies or "", "")
        small = "" if self.small_draft is None else f" ({self.small_draft} drafts for it)"
        return f"{' + '.join(names)}{small}, {self.dtype}{drafts}"


@dataclass(frozen=True)
class StrategySetting(Report):
    """A strategy with its parameters.

    `strategy`     its name
    `parameters`   their values by name: numbers as they are, all else as text
    """

    strategy: str
    parameters: Mapping[str, Parameter]

    @property
    def named(self) -> str:
        """The strategy with its draft length, for sentences."""
        return named(self.strategy, self.parameters)


@dataclass(frozen=True)
class DecodeSummary(Report):
    """The counts of one decode or of several; names and definitions are those of `specdec.statistics`.

    `mean_acceptance_length`      1 + accepted / rounds
    `draft_acceptance_rate`       accepted / drafted, wasted tokens included
    `tokens_per_target_forward`   new tokens / forwards of the target
    `acceptance_histogram`        number of rounds by their accepted tokens
    `target_idle_share`           share of the decoding time in which the target does not work
    `draft_idle_share`            share of the decoding time in which the draft does not work
    `overhead_share`              share of the decoding time in which neither model works
    `rounds`                      number of rounds
    `new_tokens`                  number of committed tokens
    `synthetic`                   empty, or a text such as `synthetic acceptance 0.8: not text` where acceptance was forced
    """

    mean_acceptance_length: float
    draft_acceptance_rate: float
    tokens_per_target_forward: float
    acceptance_histogram: Mapping[int, int]
    target_idle_share: float
    draft_idle_share: float
    overhead_share: float
    rounds: int
    new_tokens: int
    synthetic: str

    @classmethod
    def of(cls, statistics: Statistics, **more: Any) -> Self:
        """The summary of a decode's counts, with `more` fields of a subclass."""
        return cls(**{field.name: getattr(statistics, field.name) for field in fields(DecodeSummary)}, **more)


def model_name(model: PreTrainedModel) -> str:
    """Where a model was loaded from; empty if that is unknown. A bundled model has a path relative to the package."""
    if not model.name_or_path:
        return ""
    name, package = Path(model.name_or_path), Path(str(files("specdec"))).parent
    return str(name.relative_to(package) if name.is_relative_to(package) else name)


def _quantization(model: PreTrainedModel) -> str | None:
    method: Any = getattr(getattr(model.config, "quantization_config", None), "quant_method", None)
    return None if method is None else str(getattr(method, "value", method))
