"""Why a checkpoint cannot be used, in one line: its files are looked at to name the cause and the remedy.

transformers' own messages are about its code, and often about the last of several attempts. Nothing here loads a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils.import_utils import is_gguf_available, is_peft_available

from specdec.source import Source

LFS = b"version https://git-lfs.github.com/spec/"
GGUF = b"GGUF"
LENGTH = 8
"""Bytes of a safetensors file that hold the length of its header."""

REASON = 200
"""Characters that are shown of somebody else's message."""


def why_not_loaded(what: str, source: Source, error: Exception, heard: Sequence[str] = ()) -> str:
    """Why the `"model"` or the `"tokenizer"` of `source` could not be loaded; `heard` is what transformers warned of."""
    name, path = f"{what} {source.name!r}", Path(source.name)
    reason = " ".join(str(error).split())[:REASON]
    if not reason or isinstance(error, KeyError | AttributeError | TypeError | IndexError):
        reason = f"{type(error).__name__} {reason}".strip()
    if path.is_file():
        ends = path.suffix == ".gguf"
        remedy = f"give its folder {str(path.parent)!r} and gguf_file={path.name!r}" if ends else "give the folder it lies in"
        return f"{name} is a file: {remedy}"
    found = in_the_folder(source)
    if found:
        return f"{name} could not be loaded: {found}"
    if "trust_remote_code" in reason or "trust_remote_code" in str(error):
        return f"{name} runs code of its own: read that code, then allow it by trust_remote_code=True (--trust-remote-code)"
    if not path.is_dir() and isinstance(error, OSError):
        revision = f" at revision {source.options['revision']!r}" if "revision" in source.options else ""
        return f"{name} is no directory here, and could not be had from the hub{revision}: check the name"
    if "gguf_file" in source.options and not is_gguf_available():
        return f"{name} could not be loaded: reading {source.options['gguf_file']} takes the package gguf; pip install gguf"
    if "gguf_file" in source.options and source.options["gguf_file"] in _names(source):
        file = source.options["gguf_file"]
        return f"{name} could not be loaded: {file} is damaged, or of a kind unknown here ({reason}); fetch it again"
    if isinstance(error, ImportError) or _quantisation(source, error):
        method = _quantisation(source, error)
        quantised = f"it is quantised by {method}, which cannot run here" if method else "a package is missing"
        return f"{name} could not be loaded: {quantised} ({reason}); install it, or leave out what asks for it"
    if "does not recognize this architecture" in reason:
        known = f"transformers {version('transformers')} does not know its kind ({reason[:90]})"
        return f"{name} could not be loaded: {known}; try a newer version"
    if what == "tokenizer" and "tokenizer.json" in _names(source) and type(error) is Exception:
        return (
            f"{name} could not be loaded: tokenizers {version('tokenizers')} cannot read its tokenizer.json ({reason[:100]}); "
            "a newer version wrote it: upgrade, or save the tokenizer with this one"
        )
    lost = _reported(heard)
    if lost:
        return f"{name} could not be loaded: the weights for {several(lost)} are incomplete or misshapen; fetch the files again"
    return (
        f"{name} could not be loaded ({reason}): {_lacking(what, source) or 'mend the file or the option that this is about'}"
    )


def in_the_folder(source: Source) -> str:
    """What is wrong with the files of a folder, in words that follow a colon; empty where nothing is."""
    folder, names = source.folder, _names(source)
    if folder is None:
        return ""
    for name in names:
        fault = why_broken(folder / name)
        if fault:
            return f"its {name} {fault}"
    if "adapter_config.json" in names and not is_peft_available():
        return "it is an adapter, and those take the package peft; pip install peft"
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs and "config.json" not in names and "gguf_file" not in source.options:
        return f"its weights are GGUF; name the file by gguf_file={ggufs[0]!r} (--gguf-file)"
    if any(name.endswith(".safetensors") for name in names) or "gguf_file" in source.options:
        return ""
    unsafe = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if unsafe:
        return f"it has no safetensors, only {unsafe[0]}; convert it by transformers' save_pretrained"
    return ""


def _lacking(what: str, source: Source) -> str:
    """The files that a folder lacks, as a remedy; empty where none is known to be missing."""
    names = _names(source)
    if not names:
        return "there are no files of a checkpoint"
    index = next((name for name in names if name.endswith(".safetensors.index.json")), None)
    if index is not None and source.folder is not None:
        try:
            listed: dict[str, str] = json.loads((source.folder / index).read_text(encoding="utf-8"))["weight_map"]
            lost = sorted(set(listed.values()) - set(names))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return f"{index} is no list of weights; fetch it again"
        if lost:
            return f"fetch {several(lost)}, which {index} lists"
    needed = {
        "config.json": ("config.json", "params.json"),
        "a tokenizer": ("token", "vocab", "tekken", "spiece", "sentencepiece"),
    }
    weights = {} if what == "tokenizer" else {"safetensors": tuple(name for name in names if name.endswith("safetensors"))}
    if "gguf_file" in source.options:
        return ""
    if "adapter_config.json" in names and "config.json" not in names:
        whole = any(name.startswith("adapter_model.") for name in names)
        return "" if whole else "fetch the weights of this adapter, adapter_model.safetensors"
    lost = [thing for thing, starts in (needed | weights).items() if not any(name.startswith(tuple(starts)) for name in names)]
    return f"it needs {' and '.join(lost)}" if lost else ""


def why_broken(path: Path) -> str:
    """What is wrong with a file of a checkpoint, in words that follow its name; empty where nothing is, or nothing is known."""
    try:
        return _fault(path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error}); look at its rights"


def _fault(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(LFS))
        if head == LFS:
            return "is a Git LFS pointer and not the file itself; fetch it with git lfs pull"
        if path.suffix == ".gguf" and head[: len(GGUF)] != GGUF:
            return "is no GGUF file; fetch it again"
        if path.suffix != ".safetensors":
            return "is empty; fetch it again" if size == 0 and path.suffix in (".json", ".model") else ""
        length = int.from_bytes(head[:LENGTH], "little")
        if size < LENGTH or LENGTH + length > size:
            return f"is cut short ({size:,} bytes); fetch it again"
        file.seek(LENGTH)
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError):
            return "is no safetensors file; fetch it again"
    whole = LENGTH + length + max(ends, default=0)
    return "" if size == whole else f"has {size:,} bytes, and its header says {whole:,}; fetch it again"


def _tensor_types(source: Source) -> set[str]:
    """Number formats of the tensors in its safetensors, as these files name them; none where they are not in a folder here."""
    found: set[str] = set()
    for name in _names(source):
        if source.folder is not None and name.endswith(".safetensors"):
            with (source.folder / name).open("rb") as file:
                header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(LENGTH), "little")))
            found |= {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}
    return found


def why_misfit(source: Source, model: nn.Module, info: dict[str, Any]) -> str:
    """Why weights and class do not belong together, by transformers' report of a load; empty where they do."""
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    unexpected = sorted(_with_a_meaning(model, info["unexpected_keys"]))
    name, weights, of = f"model {source.name!r}", _weights(source), type(model).__name__
    if _configured(source).get("quant_method") == "fp8" and not any(kind.startswith("F8") for kind in _tensor_types(source)):
        return (
            f"{name} does not fit: config.json says fp8, and {weights} holds no such weight; take both from the same checkpoint"
        )
    if mismatched:
        key, held, wanted = mismatched[0]
        both = f"{tuple(held)} in {weights} and {tuple(wanted)} by config.json"
        return f"{name} does not fit: {key} has shape {both}; take both from the same checkpoint"
    if missing:
        lack = f"{weights} lacks {several(missing)} of {of}, and random numbers would stand there"
        return f"{name} is incomplete: {lack}; fetch it again"
    if unexpected:
        excess = f"{weights} has {several(unexpected)}, for which config.json leaves no place"
        return f"{name} does not fit: {excess}; take both from the same checkpoint"
    return ""


def several(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _with_a_meaning(model: nn.Module, unexpected: Collection[str]) -> Iterator[str]:
    """Weights whose loss changes the model: of a layer that it has (a bias, a scale), or of layers beyond its last.

    Others belong to parts that a causal language model lacks, such as the head of another task.
    """
    modules = dict(model.named_modules())
    for key in unexpected:
        owner = modules.get(key.rpartition(".")[0])
        if owner is not None and isinstance(getattr(owner, "weight", None), nn.Parameter):
            yield key
        for number in re.finditer(r"\.(\d+)\.", key):
            layers = modules.get(key[: number.start()])
            if isinstance(layers, nn.ModuleList) and int(number[1]) >= len(layers):
                yield key


def _quantisation(source: Source, error: Exception) -> str:
    """The method that quantised the weights, where it is a reason for `error`; else empty."""
    given = source.options.get("quantization_config") or _configured(source)
    method = given.get("quant_method", "") if isinstance(given, dict) else getattr(given, "quant_method", "")
    said = str(error).lower()
    about = isinstance(error, ImportError) or any(
        word in said for word in ("quanti", "gpu is required", "no gpu", "bitsandbytes")
    )
    return str(getattr(method, "value", method)) if about else ""


def _configured(source: Source) -> dict[str, Any]:
    """The quantisation that config.json names; empty without one, or where it cannot be read."""
    try:
        folder = source.folder
        config: Any = {} if folder is None else json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config.get("quantization_config") or {}
    except (OSError, ValueError, AttributeError):
        return {}


def _reported(heard: Sequence[str]) -> list[str]:
    """Weights that transformers could not convert, from the report that it logs before it gives up."""
    plain = re.sub(r"\x1b\[\d+m", "", "\n".join(heard))
    return [match[1] for match in re.finditer(r"^(\S+) +\| (?:CONVERSION|MISMATCH)", plain, re.MULTILINE)]


def _weights(source: Source) -> str:
    """The file that holds the weights, or the file that lists those that do."""
    names = [name for name in _names(source) if name.endswith((".safetensors", ".safetensors.index.json"))]
    index = [name for name in names if name.endswith(".json")]
    return source.options.get("gguf_file") or next(iter(index or names), "its checkpoint")


def _names(source: Source) -> list[str]:
    folder = source.folder
    return [] if folder is None else sorted(path.name for path in folder.iterdir() if path.is_file())
