"""Models and tokenizers from directories and hub names, or refused in one line (`specdec.diagnosis` finds the words).

Loads any causal language model of Hugging Face (safetensors, GGUF, adapters), and makes the models of `specdec.shapes`. It
never asks a question on standard input, which may hold a prompt.
"""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from specdec.diagnosis import in_the_folder, several, why_misfit, why_not_loaded
from specdec.errors import PairError
from specdec.own_layers import is_self_draft, self_draft
from specdec.shapes import build, is_shape
from specdec.source import OF_BOTH, Source

HUB = ("revision", "subfolder", "token", "cache_dir")
"""Options that say where files lie."""

NO_ADAPTER = {"subfolder": "no adapter"}
"""Keeps transformers from loading an adapter along with its base: it would drop the report on the weights of the base."""


def load_model(source: Source) -> PreTrainedModel:
    """One model in evaluation mode: a shape, or a checkpoint. Raises `PairError`."""
    require_device(source.device)
    try:
        if is_shape(source.name):
            native = torch.bfloat16 if is_native(torch.bfloat16, source.device) else torch.float32
            model: Any = build(source.name, source.device, source.dtype or native)
            return model.eval()
        return _checkpoint(source).eval()
    except torch.OutOfMemoryError as error:
        raise _no_device(source.device, error) from error


def load_small_draft(
    name: str | Path, draft: PreTrainedModel, target: Source, tokenizers: Sequence[PreTrainedTokenizerBase]
) -> PreTrainedModel:
    """A third model, which drafts for `draft`: on its device, in its format, with the options of all checkpoints of the pair.

    Its tokenizer must be the target's, the first of `tokenizers`. Raises `PairError`, and `InputError` for layers of the draft.
    """
    if is_self_draft(name):
        return self_draft(draft, str(name))
    source = Source(str(name), str(draft.device), draft.dtype, {} if is_shape(name) else target.some(*OF_BOTH))
    if tokenizers and not is_shape(name):
        require_equal_tokenizers(tokenizers[0], load_tokenizer(source), target.name, source.name)
    return load_model(source)


def require_device(device: str) -> None:
    """Refuse a device that is missing here."""
    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("meta tensors hold no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _no_device(device, error) from error


def _no_device(device: str, error: Exception) -> PairError:
    reason = str(error).partition("\n")[0][:120]
    there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
    return PairError(f"device {device} cannot be used ({reason}): available here are {there}")


def _checkpoint(source: Source) -> Any:
    at_fault = source
    with quiet_transformers() as heard:
        try:
            adapter = _adapter(source)
            at_fault = source if adapter is None else adapter.base
            model, info = _base(at_fault)
            fault = why_misfit(at_fault, model, info)
            at_fault = source
            if adapter is not None and not fault:
                fault = _add(source, model)
            if fault:
                raise PairError(fault)
            return model
        except (PairError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # anything can come out of somebody's files, and of code that came with them
            raise PairError(why_not_loaded("model", at_fault, error, heard)) from error


def _base(source: Source) -> tuple[Any, dict[str, Any]]:
    """A model on its device, and transformers' report of the load."""
    here, options = Path(source.name).is_dir(), {"trust_remote_code": False, **source.options}
    known = source.some(*HUB, "gguf_file")
    config: Any = AutoConfig.from_pretrained(
        source.name, local_files_only=here, trust_remote_code=options["trust_remote_code"], **known
    )
    causal: Any = AutoModelForCausalLM
    if type(config) not in causal._model_mapping and "AutoModelForCausalLM" not in getattr(config, "auto_map", {}):
        kind = f"{config.model_type!r} by its config.json, and that is no causal language model"
        raise PairError(f"model {source.name!r} is {kind}: choose a model that continues text")
    stored = config.dtype or torch.float32
    dtype = source.dtype or (stored if is_native(stored, source.device) else torch.float32)
    if dtype == torch.float64:
        options.setdefault("experts_implementation", "eager")  # the grouped products of experts take no double
    quantised = "quantization_config" in options or "gguf_file" in options or getattr(config, "quantization_config", None)
    if quantised and "distributed_config" not in options:
        options.setdefault("device_map", {"": source.device})  # many quantised weights cannot be moved later
    model, info = causal.from_pretrained(
        source.name,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=here,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report names them
        adapter_kwargs=NO_ADAPTER,
        **options,
    )
    placed = "device_map" in options or "distributed_config" in options
    return model if placed else model.to(source.device), info


@dataclass(frozen=True)
class _Adapter:
    """An adapter's folder, and the model that it changes."""

    folder: Path
    base: Source


def _adapter(source: Source) -> _Adapter | None:
    """The adapter that `source` names, whose files were looked at; `None` where it is a whole model."""
    here = Path(source.name).is_dir()
    found = find_adapter_config_file(source.name, local_files_only=here, **source.some(*HUB))
    if found is None:
        return None
    fault = in_the_folder(source)
    if fault:
        raise PairError(f"model {source.name!r} could not be loaded: {fault}")
    if here and source.folder is not None and (source.folder / "config.json").is_file():
        return _Adapter(Path(found).parent, source)
    named = json.loads(Path(found).read_text(encoding="utf-8"))
    base: str = named.get("base_model_name_or_path") or ""
    if not base:
        raise PairError(f"adapter {source.name!r} names no base model: set base_model_name_or_path in its adapter_config.json")
    options: dict[str, Any] = {
        name: value for name, value in source.options.items() if name not in ("revision", "subfolder", "variant")
    }
    if named.get("revision"):
        options["revision"] = named["revision"]
    return _Adapter(Path(found).parent, replace(source, name=base, options=options))


def _add(source: Source, model: Any) -> str:
    """Add the adapter of `source` to its base. Returns why they do not fit; empty where they do."""
    here = Path(source.name).is_dir()
    info: Any = model.load_adapter(source.name, adapter_kwargs={"local_files_only": here, **source.some(*HUB)})
    wrong = sorted(info.missing_keys | info.unexpected_keys)
    return f"adapter {source.name!r} does not fit its base model: {several(wrong)} is on one side only" if wrong else ""


def is_native(dtype: torch.dtype, device: str) -> bool:
    """Whether the device multiplies the type as fast as float32, or faster."""
    if device.startswith("cpu") and dtype == torch.bfloat16:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return not device.startswith("cpu") or dtype != torch.float16


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """One tokenizer. An adapter without one has that of its base. Raises `PairError`."""
    with quiet_transformers():
        try:
            adapter = _adapter(source)
            if adapter is not None and not _has_tokenizer(source, adapter):
                source = adapter.base
            options = {"trust_remote_code": False, **source.some(*HUB, "gguf_file", "trust_remote_code")}
            return AutoTokenizer.from_pretrained(source.name, local_files_only=Path(source.name).is_dir(), **options)
        except PairError:
            raise
        except Exception as error:  # the tokenizers package raises plain ones
            raise PairError(why_not_loaded("tokenizer", source, error)) from error


def _has_tokenizer(source: Source, adapter: _Adapter) -> bool:
    """Whether an adapter comes with a tokenizer. The hub is asked, since what was loaded from it so far has none."""
    if Path(source.name).is_dir():
        return any(adapter.folder.glob("tokenizer*"))
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    asked: dict[str, Any] = {f"_raise_exceptions_for_{problem}": False for problem in quiet}
    return cached_file(source.name, "tokenizer_config.json", **asked, **source.some(*HUB)) is not None


def require_equal_tokenizers(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase, target_name: str, draft_name: str
) -> None:
    """Refuse a draft whose tokenizer numbers ordinary tokens differently.

    Either may have tokens that the other lacks, and added ones, such as special tokens, may have other names: what the draft
    proposes is verified, whatever it means to the draft. A `RuntimeWarning` says so.
    """
    ours, theirs = _by_number(target), _by_number(draft)
    if ours == theirs:
        return
    token = renumbered(target, draft)
    if token is not None:
        raise PairError(
            f"{draft_name} has another tokenizer than {target_name} (they differ at token {token!r}): "
            "choose a draft of the target's own family, or set vocabularies to 'auto'"
        )
    renamed = [number for number in sorted(ours.keys() & theirs.keys()) if ours[number] != theirs[number]]
    differences = [
        *(f"token {number} is {ours[number]!r} in the target and {theirs[number]!r} in the draft" for number in renamed[:1]),
        *(_only("target", ours, theirs), _only("draft", theirs, ours)),
    ]
    warnings.warn(
        f"the tokenizers of {target_name} and {draft_name} differ ({'; '.join(filter(None, differences))}): "
        "the output stays the target's, and the draft never proposes what it lacks",
        RuntimeWarning,
        stacklevel=3,
    )


def renumbered(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase) -> str | None:
    """The first ordinary token of the target whose number means another one to the draft; `None` where there is none."""
    ours, theirs = _by_number(target), _by_number(draft)
    added = target.added_tokens_decoder.keys() & draft.added_tokens_decoder.keys()
    both = sorted(ours.keys() & theirs.keys())
    return next((ours[number] for number in both if ours[number] != theirs[number] and number not in added), None)


def _by_number(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _only(name: str, tokens: Mapping[int, str], others: Mapping[int, str]) -> str:
    """Words for the tokens that one tokenizer has alone; empty if there are none."""
    extra = [repr(tokens[number]) for number in sorted(tokens.keys() - others.keys())]
    return f"only the {name} has {several(extra)}" if extra else ""


class quiet_transformers:
    """No progress bars or warnings of transformers in the block. The warnings are in the list that it gives.

    Several threads may be in such blocks, since a decode may begin while a model is loaded. The first of them makes the library
    quiet, and the last one leaves it as it was.
    """

    _changing = threading.Lock()
    _inside: ClassVar[list[_Heard]] = []
    _before: ClassVar[tuple[list[logging.Handler], int, bool]]

    def __enter__(self) -> list[str]:
        library, cls = logging.getLogger("transformers"), quiet_transformers
        self._heard = _Heard()
        with self._changing:
            if not self._inside:
                cls._before = library.handlers, library.level, transformers_logging.is_progress_bar_enabled()
                library.setLevel(logging.WARNING)
                transformers_logging.disable_progress_bar()
            self._inside.append(self._heard)
            library.handlers = [*self._inside]
        return self._heard.messages

    def __exit__(self, *_: object) -> None:
        library = logging.getLogger("transformers")
        with self._changing:
            self._inside.remove(self._heard)
            library.handlers = [*self._inside]
            if not self._inside:
                library.handlers, level, bar = self._before
                library.setLevel(level)
                if bar:
                    transformers_logging.enable_progress_bar()


class _Heard(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
