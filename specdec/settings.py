"""What decides an output besides the models: the checkpoint's generation configuration, overlaid by what the caller says.

`resolve` lets transformers prepare both as `model.generate` does. So the logits processors and their order are its own.
Processors may depend on the prompt, so settings are resolved for each one. What cannot be done here is refused by name.
Source: `GenerationMixin.generate`, transformers 5.23.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    PreTrainedModel,
    SequenceBiasLogitsProcessor,
)

from specdec.errors import InputError
from specdec.inputs import at_least_one, is_integer, plain, plain_fields
from specdec.loading import quiet_transformers
from specdec.runtime.placement import device_of
from specdec.runtime.vocabulary import head_size
from specdec.sampling import CONTEXT_FREE, Sampling

DEFAULT_NEW_TOKENS = 128
"""Budget of an output for which neither the caller nor the checkpoint names one."""

SAMPLED = ("temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that have an effect only where tokens are sampled."""

NAMED = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id"),
    *("forced_eos_token_id", "min_length", "min_new_tokens", "exponential_decay_length_penalty", "remove_invalid_values"),
    *("renormalize_logits", "watermarking_config", "stop_strings", "max_time"),
)
"""Settings that have an effect on greedy outputs too, but for the budget and the end of sequence."""

ASSISTED = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
"""Settings that say how transformers drafts. They do not change the law of an output."""

REFUSED = (
    *("guidance_scale", "num_beams", "num_return_sequences", "token_healing", "cache_implementation", "is_assistant"),
    *("assistant_ensemble_weight", "penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups"),
)
"""Settings that change outputs, or their number, and that are not implemented here."""


@dataclass(frozen=True)
class Options:
    """What the caller says. `None` leaves a setting to the checkpoint.

    `max_new_tokens`     budget of new tokens
    `temperature`        0 is greedy; any other number samples
    `top_k`              0 switches off the checkpoint's own
    `top_p`, `min_p`, `repetition_penalty`   as in `Sampling`; 1, 0 and 1 switch off the checkpoint's own
    `logits_processor`   come where `generate` puts them: after the processors that settings name, before the temperature
    `stop_strings`       a text or texts; `()` for none
    `eos`                a token id or token ids; `()` for none
    `max_time`           seconds; infinite for no limit
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    logits_processor: Sequence[Any] | None = ()
    stop_strings: str | Sequence[str] | None = None
    eos: int | Collection[int] | None = None
    max_time: float | None = None

    def __post_init__(self) -> None:
        plain_fields(self)
        top_k = None if self.top_k == 0 and not isinstance(self.top_k, bool) else self.top_k
        temperature = 1.0 if self.temperature is None else self.temperature
        Sampling(temperature, top_k, self.top_p, self.min_p, self.repetition_penalty)
        if self.max_new_tokens is not None:
            at_least_one(max_new_tokens=self.max_new_tokens)
        if self.max_time is not None and not (isinstance(self.max_time, (int, float)) and self.max_time > 0):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"max_time {self.max_time!r} is not possible: give seconds above 0")
        if not all(map(is_integer, several(self.eos))):
            raise InputError(f"eos {self.eos!r} is not possible: give a token id, token ids, or () for no end")
        processors: Any = self.logits_processor or ()
        if not isinstance(processors, Sequence) or not all(map(callable, processors)):
            raise InputError(f"logits_processor {processors!r} is not possible: give a list of logits processors")
        if not all(isinstance(text, str) and text for text in several(self.stop_strings)):
            raise InputError(f"stop_strings {self.stop_strings!r}: a stop string is empty: give at least one character")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Keyword arguments as `Options`. Unknown ones are refused by name."""
        known = [own.name for own in fields(cls)]
        for name in options:
            if name not in known:
                raise InputError(f"unknown option {name!r}: options are {', '.join(known)}")
        return cls(**options)

    def overlay(self, own: GenerationConfig) -> dict[str, Any]:
        """What is said here, by the names of `GenerationConfig`, over the checkpoint's `own`."""
        said = {name: getattr(self, name) for name in ("top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")}
        said["temperature"] = float(self.temperature) if self.temperature else None  # transformers takes no 0 and no integer
        found = {name: value for name, value in said.items() if value is not None}
        if self.temperature is not None:
            found["do_sample"] = self.temperature > 0
        elif own.do_sample is not True:
            for name in ("top_k", "top_p", "min_p"):
                if name in found:
                    raise InputError(f"{name} {found[name]} does nothing without sampling: give a temperature too")
        if own.do_sample is not True and own.top_k is None:
            found.setdefault("top_k", 0)  # the library's own 50 is no setting of a checkpoint that does not sample
        if self.max_new_tokens is None and own.max_new_tokens is None and own.max_length is None:
            found["max_new_tokens"] = DEFAULT_NEW_TOKENS
        if self.eos is not None:
            found["eos_token_id"] = list(map(plain, several(self.eos))) or None
        if self.stop_strings is not None:
            found["stop_strings"] = several(self.stop_strings) or None
        if self.max_time is not None:
            found["max_time"] = None if self.max_time == math.inf else self.max_time
        return found


@dataclass(frozen=True)
class Settings:
    """All that decides one output besides the two models.

    `sampling`         how tokens are chosen
    `eos`              token ids that end the output
    `max_new_tokens`   budget
    `stop_strings`     texts that end the output
    `max_time`         seconds after which the output ends; `None` without a limit
    `named`            settings that have an effect, by their names in `GenerationConfig`; for reports
    """

    sampling: Sampling
    eos: frozenset[int] = frozenset()
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    stop_strings: tuple[str, ...] = ()
    max_time: float | None = None
    named: Mapping[str, Any] = field(default_factory=dict[str, Any])


def resolve(model: PreTrainedModel, prompt: Sequence[int], options: Options) -> Settings:
    """The settings of one output: what `options` say, and else what the checkpoint of `model` says.

    Without any option, they are those of `model.generate(prompt)`, but for the budget: where the checkpoint names none,
    it is 128 tokens. A `temperature` above 0 samples, with all that the checkpoint names. Raises `InputError` for a setting
    that cannot be used here, by its name.
    """
    config = configuration(model, len(prompt), options)
    device = device_of(model)
    ids = torch.tensor([list(prompt)], device=device)
    with _transformers(model):
        maker: Any = model
        maker._prepare_special_tokens(config, True, device=device, batch_size=1)
        chain: list[Any] = maker._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=len(prompt),
            encoder_input_ids=ids,
            logits_processor=LogitsProcessorList(options.logits_processor or ()),
            device=device,
            model_kwargs={},
        )
        _require_known_tokens(config, chain, len(prompt), head_size(model))
    eos = config._eos_token_tensor
    return Settings(
        sampling=_sampling(config, chain, plain=not options.logits_processor),
        eos=frozenset(() if eos is None else eos.tolist()),
        max_new_tokens=config.max_length - len(prompt),
        stop_strings=tuple(several(config.stop_strings)),
        max_time=config.max_time,
        named=_named(config),
    )


def configuration(model: PreTrainedModel, prompt_tokens: int, options: Options) -> Any:
    """The `GenerationConfig` that `generate` would work with, its lengths resolved for a prompt of `prompt_tokens`."""
    own: Any = model.generation_config
    if own is None:
        raise InputError("the target has no generation_config: set model.generation_config = transformers.GenerationConfig()")
    overlay = options.overlay(own)
    maker: Any = model
    with _transformers(model):
        config, _ = maker._prepare_generation_config(None, **overlay)
        _refuse(config, own)
        if "max_new_tokens" not in overlay and own.max_new_tokens is None and own.max_length <= prompt_tokens:
            raise InputError(
                f"the prompt has {prompt_tokens} tokens and the checkpoint's max_length is {own.max_length}: "
                "give max_new_tokens, or a shorter prompt"
            )
        _report(own, config, maker)
        return maker._prepare_generated_length(
            generation_config=config,
            has_default_max_length=own.max_length is None,
            has_default_min_length=own.min_length is None,
            model_input_name="input_ids",
            inputs_tensor=None,
            input_ids_length=prompt_tokens,
        )


def _require_known_tokens(config: Any, chain: Sequence[Any], prompt_tokens: int, vocabulary: int) -> None:
    """Raise `ValueError` for settings that bias or force tokens without a logit: `generate` fails when it gets to these."""
    first = config.forced_bos_token_id if prompt_tokens == 1 else None  # it is forced after one token alone
    named = {"forced_bos_token_id": several(first), "forced_eos_token_id": several(config.forced_eos_token_id)}
    for name, kind in (("bad_words_ids", NoBadWordsLogitsProcessor), ("sequence_bias", SequenceBiasLogitsProcessor)):
        named[name] = [token for one in chain if type(one) is kind for tokens in one.sequence_bias for token in tokens]
    for name, tokens in named.items():
        if unknown := [token for token in tokens if token >= vocabulary]:
            raise ValueError(f"{name} names {unknown}, and the model has logits for {vocabulary} tokens")


@contextmanager
def _transformers(model: PreTrainedModel) -> Generator[None]:
    """What transformers says of a setting that cannot be, as an `InputError`."""
    with quiet_transformers():
        try:
            yield
        except InputError:
            raise
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason, name = " ".join(str(error).split())[:200], model.name_or_path or "the target"
            raise InputError(
                f"{name} names generation settings that generate refuses ({reason}): mend its generation_config"
            ) from error


def _refuse(config: GenerationConfig, own: Any) -> None:
    """Refuse by name what changes outputs and is not implemented."""
    values = {name: getattr(config, name, None) for name in REFUSED}
    mode = config.get_generation_mode().value
    changes = {
        "guidance_scale": values["guidance_scale"] not in (None, 1),
        "num_beams": (values["num_beams"] or 1) > 1,
        "num_return_sequences": (values["num_return_sequences"] or 1) > 1,
        "token_healing": bool(values["token_healing"]),
        "cache_implementation": values["cache_implementation"] in ("quantized", "paged"),
        "is_assistant": bool(values["is_assistant"]),
        # generate has a top_k of 50 where none is named, and penalty_alpha works with it
        "penalty_alpha": own.top_k is None and config.do_sample is not True and (values["penalty_alpha"] or 0) > 0,
        "assistant_ensemble_weight": mode == "assisted_generation" and values["assistant_ensemble_weight"] is not None,
    }
    modes = {"contrastive_search": "penalty_alpha", "dola_generation": "dola_layers", "group_beam_search": "num_beam_groups"}
    modes["constrained_beam_search"] = "force_words_ids" if values["constraints"] is None else "constraints"
    names = [*(name for name, found in changes.items() if found), *([modes[mode]] if mode in modes else [])]
    for name in names:
        value = values[name]
        raise InputError(
            f"the checkpoint's generation_config names {name}={value!r}, which changes outputs and cannot be done here: "
            f"take it out of generation_config.json, or set model.generation_config.{name} = None"
        )


def _report(own: Any, config: GenerationConfig, model: Any) -> None:
    """Say by name what is left out, and why that is no loss, or whose loss it is."""
    for name in ASSISTED:
        if getattr(config, name, None):
            warnings.warn(
                f"{name} of the checkpoint's generation_config is left out: here the strategy says what is drafted",
                RuntimeWarning,
                stacklevel=2,
            )
    unknown = [name for name in vars(own) if not name.startswith("_") and name not in vars(GenerationConfig())]
    if unknown and not type(model).generate.__module__.startswith("transformers.generation"):
        warnings.warn(
            f"{type(model).__name__} has a generate of its own, which may read {', '.join(unknown)} of its generation_config: "
            "they are left out",
            RuntimeWarning,
            stacklevel=2,
        )


def _sampling(config: Any, chain: Sequence[Any], *, plain: bool) -> Sampling:
    """The chain as a `Sampling`. If it is `plain` and context-free, it has plain fields, and equals that of another prompt."""
    if plain and config.top_p != 0 and all(type(one) in CONTEXT_FREE for one in chain):
        top_p = None if config.top_p is None or config.top_p >= 1 else config.top_p
        warped = Sampling(float(config.temperature), config.top_k or None, top_p, config.min_p)
        return warped if config.do_sample else Sampling(temperature=0.0)
    return Sampling(1.0 if config.do_sample else 0.0, logits_processor=tuple(chain))


def _named(config: Any) -> dict[str, Any]:
    off: dict[str, Any] = {**GenerationConfig._get_default_generation_params(), "top_k": 0}  # pyright: ignore[reportPrivateUsage]
    found: dict[str, Any] = {"temperature": float(config.temperature) if config.do_sample else 0.0}
    for name in (*(SAMPLED if config.do_sample else ()), *NAMED):
        value = getattr(config, name, None)
        if value is not None and value is not False and (name not in off or value != off[name]):
            found[name] = _plain(value)
    if "min_new_tokens" in found:
        found.pop("min_length", None)  # generate makes it of the other
    return found


def _plain(value: Any) -> Any:
    """The value, as JSON can hold it."""
    try:
        json.dumps(value)
    except TypeError:
        return str(value.to_dict() if hasattr(value, "to_dict") else value)
    return value


def several(one_or_more: Any) -> list[Any]:
    """One thing, some things or nothing, as a list."""
    if one_or_more is None:
        return []
    alone = isinstance(one_or_more, (str, bytes)) or not isinstance(one_or_more, Collection)
    return [one_or_more] if alone else list(one_or_more)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
