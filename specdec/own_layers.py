"""Self-speculation: a draft made of some of the target's own layers.

    Pair.load(target, "layers:8")             the first 8 layers draft
    Pair.load(target, "layers:0-3,8-11")      these layers draft, counted from 0
    Pair(model, self_draft(model, "8"))       the same for a model in memory

LayerSkip (Elhoushi et al. 2024, arXiv 2404.16710) drafts with the first layers of a target that was trained for it. Draft &
Verify (Zhang et al. 2023, arXiv 2309.08168) skips chosen layers of any target. Both share one cache between drafting and
verification. Here the draft is a model and has its own, so every strategy, lane and rule takes it as any other draft.

The draft shares every weight with the target; only its Python objects are new. Whatever its rows are, they are the `q` that its
tokens are sampled from, so the output law is the target's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from specdec.errors import InputError, PairError
from specdec.runtime.parallel import is_split

PREFIX = "layers:"


def is_self_draft(name: object) -> bool:
    """Whether the name of a draft asks for layers of the target."""
    return str(name).startswith(PREFIX)


def self_draft(target: PreTrainedModel, layers: int | str) -> PreTrainedModel:
    """A model of some of the target's layers, between its embedding and its head. It shares the target's weights.

    `layers`  how many of the first ones, or which ones as text, counted from 0: `"0-3,8-11"`. `"layers:..."` is the same

    Raises `InputError` for layers that the target does not have, and `PairError` where none can be left out.
    """
    text = str(layers).removeprefix(PREFIX)
    path, count = _place_of_layers(target)
    chosen = _chosen(text, count)
    shared = {id(tensor): tensor for tensor in chain(target.parameters(), target.buffers())}
    draft = copy.deepcopy(target, shared)
    kept = [draft.get_submodule(f"{path}.{number}") for number in chosen]
    for number, (before, layer) in enumerate(zip(chosen, kept, strict=True)):
        for module in layer.modules():
            if getattr(module, "layer_idx", None) == before:
                module.layer_idx = number  # pyright: ignore[reportArgumentType] - the layer of the cache
    parent, _, name = path.rpartition(".")
    setattr(draft.get_submodule(parent), name, nn.ModuleList(kept))
    _cut(draft, chosen)
    draft.name_or_path = PREFIX + text
    return draft


def _place_of_layers(target: PreTrainedModel) -> tuple[str, int]:
    """The path of the target's list of layers, and how many there are."""
    kind, count = target.config.model_type, target.config.get_text_config(decoder=True).num_hidden_layers
    if is_split(target):
        raise PairError(f"{kind} is split over ranks, and the draft works on rank 0 alone: give a draft model")
    if any(tensor.is_meta for tensor in target.parameters()):
        raise PairError(f"some weights of {kind} are offloaded, so no draft can share them: give a draft model")
    lists = [path for path, module in target.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    outermost = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        found = f"{len(outermost)} lists of {count} layers" if outermost else f"no list of its {count} layers"
        raise PairError(f"{kind} has {found}, so none can be left out for a draft: give a draft model")
    return outermost[0], count


def _chosen(text: str, count: int) -> list[int]:
    """The numbers of the layers that `text` names, of `count`."""
    parts = [part.strip().partition("-") for part in text.split(",")]
    if not all(_is_number(first) and (_is_number(last) or not dash) for first, dash, last in parts):
        raise InputError(f"{PREFIX}{text} names no layers: write layers:8 for the first 8, or layers:0-3,8-11")
    ranges = [(int(first), int(last or first)) for first, _, last in parts]
    if len(parts) == 1 and not parts[0][1]:
        ranges = [(0, ranges[0][0] - 1)]
    if ranges[-1][1] >= count:
        raise InputError(
            f"{PREFIX}{text} asks for layer {ranges[-1][1]}, and the target has layers 0 to {count - 1}: name those"
        )
    ends = [-1, *(last for _, last in ranges)]
    if any(not before < first <= last for before, (first, last) in zip(ends, ranges, strict=False)):
        raise InputError(f"{PREFIX}{text} is no rising sequence of layers: name each once, in order, and at least one")
    return [number for first, last in ranges for number in range(first, last + 1)]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 7


def _cut(draft: PreTrainedModel, chosen: Sequence[int]) -> None:
    """Make the draft's configuration that of the chosen layers. Raises `PairError` where it cannot say that."""
    config: Any = draft.config.get_text_config(decoder=True)
    before, _ = get_layer_types_and_kwargs(config)
    own = vars(config).get("layer_types")
    config.num_hidden_layers = len(chosen)
    if own is not None:  # else they follow from the number of layers
        config.layer_types = [own[number] for number in chosen]
    after, _ = get_layer_types_and_kwargs(config)
    if after != [before[number] for number in chosen]:
        raise PairError(
            f"{draft.config.model_type} has layers of several types, and its configuration gives other types to "
            f"{len(chosen)} layers: give a draft model"
        )
