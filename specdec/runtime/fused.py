"""A model's forward in few operations, for CPUs.

transformers' forward of a small model takes twice as long as its matrix products. These take about twice as long as they need,
since each product rearranges its weight again. What is different here:

- weights are rearranged once, beforehand (oneDNN's packed format);
- one product gives queries, keys and values; another gives both halves of the gate;
- a product adds the residual where it writes;
- heads that share keys are attended to at once.

The logits are the model's own up to rounding. Layers must be Llama's, as transformers wrote them; other models run as they are.
"""

from __future__ import annotations

import sys
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.activations import ACT2FN

from specdec.runtime.cache import context_limit, new_cache, why_not_plain, why_not_static
from specdec.runtime.placement import several_devices
from specdec.runtime.runner import ROUNDING, Forward
from specdec.runtime.watch import autocast, evaluation

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types of transformers with Llama's layers; biases and a norm of the heads are the only extras."""

NARROW = 16
"""Widest window whose heads are grouped. Wider windows are prompts; their mask would grow with the groups."""

SHARE_OF_MEMORY = 0.75
"""The most that packed weights may take, of the memory that is free."""

TRIED = 9
"""Tokens by which a fused forward is compared with the model's own."""

MEMINFO = Path("/proc/meminfo")


class Product:
    """`x @ weight.T + bias` of several linear layers, their outputs one after another, plus `added` if given.

    bfloat16 is packed: 5 positions then cost what one does. float32 is packed too, but a single position is faster by a plain
    product with the weight stored by columns. Other types have the plain product only.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        biases: list[Any] = [layer.bias for layer in layers]  # all layers have one, or none has
        self._bias = None if None in biases else torch.cat(biases).detach()
        self._packed = self._plain = None
        if can_pack(weight.dtype):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            self._product = torch.ops.mkldnn._linear_pointwise.default
            self._added_product = torch.ops.mkldnn._linear_pointwise.binary
        if self._packed is None or weight.dtype == torch.float32:
            self._plain = weight.t().contiguous().t()

    def __call__(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if self._packed is None or (self._plain is not None and len(x) == 1):
            assert self._plain is not None
            y = F.linear(x, self._plain, self._bias)
            return y if added is None else y.add_(added)
        if added is None:
            return self._product(x, self._packed, self._bias, "none", [], "")
        return self._added_product(x, added, self._packed, self._bias, "add")


class Norm:
    """Root mean square norm over the last dimension: x / sqrt(mean(x^2) + eps) * w."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        size = weight.shape[-1]
        self._weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)) * sqrt(size)
        self._least = self._weight.new_tensor(sqrt(size * eps))

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=self._weight.dtype)
        return (x / length.hypot_(self._least)).mul_(self._weight).to(x.dtype)


class Layer(NamedTuple):
    """The products and norms of one layer."""

    attention_norm: Norm
    heads: Product
    heads_norm: Norm | None
    mixed: Product
    mlp_norm: Norm
    gates: Product
    down: Product


class FusedForward(Forward):
    """Is called as a model is, with a cache of this package, and returns logits of shape (slots, kept, vocabulary).

    It holds a copy of the weights of all products (two copies in float32), so it does not see later changes of the model, nor
    hooks. It serves the models that `why_not_fused` allows; `new_forward` compares it with the model's own.
    """

    why_eager = None

    def __init__(self, model: PreTrainedModel) -> None:
        decoder: Any = model.model
        self._dim: int = decoder.layers[0].self_attn.head_dim
        self._heads: int = model.config.num_attention_heads
        self._kv_heads: int = model.config.num_key_value_heads
        self._eps: float = model.config.rms_norm_eps
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._rotary = decoder.rotary_emb
        self._angles = self._table(256)
        self._layers = [self._layer(layer) for layer in decoder.layers]
        self._norm = Norm(decoder.norm.weight, self._eps)
        self._head = Product(model.lm_head)

    def _layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        heads_norm = None
        if hasattr(attention, "q_norm"):
            norms = [attention.q_norm.weight] * self._heads + [attention.k_norm.weight] * self._kv_heads
            heads_norm = Norm(torch.stack(norms), self._eps)
        return Layer(
            Norm(layer.input_layernorm.weight, self._eps),
            Product(attention.q_proj, attention.k_proj, attention.v_proj),
            heads_norm,
            Product(attention.o_proj),
            Norm(layer.post_attention_layernorm.weight, self._eps),
            Product(mlp.gate_proj, mlp.up_proj),
            Product(mlp.down_proj),
        )

    def __call__(
        self,
        input_ids: Tensor,
        past_key_values: Cache,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        assert position_ids is not None
        assert not isinstance(attention_mask, dict)
        slots, width = input_ids.shape
        start = past_key_values.get_seq_length()
        narrow = width <= NARROW and (width == 1 or start > 0 or attention_mask is not None)
        if attention_mask is None and width > 1 and start > 0:
            attention_mask = self._embedding.new_full((width, start + width), -torch.inf).triu_(start + 1)
        if attention_mask is not None and narrow and self._heads > self._kv_heads:
            attention_mask = torch.cat([attention_mask] * (self._heads // self._kv_heads), -2)
        attend = self._attend_grouped if narrow else self._attend
        turning_heads = self._heads + self._kv_heads
        cosines, sines = self._rotation(position_ids)
        x = F.embedding(input_ids.reshape(-1), self._embedding)
        held: Any  # a layer of one of our caches
        for layer, held in zip(self._layers, past_key_values.layers, strict=True):
            states = layer.heads(layer.attention_norm(x)).view(slots, width, -1, self._dim)
            turned = states[:, :, :turning_heads]
            if layer.heads_norm is not None:
                turned = layer.heads_norm(turned)
            turned = torch.addcmul(turned * cosines, turned.roll(self._dim // 2, -1), sines).transpose(1, 2)
            keys, values = held.update(turned[:, self._heads :], states[:, :, turning_heads:].transpose(1, 2))
            mixed = attend(turned[:, : self._heads], keys, values, attention_mask)
            x = layer.mixed(mixed.reshape(slots * width, -1), x)
            gate, up = layer.gates(layer.mlp_norm(x)).chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up), x)
        kept = x.view(slots, width, -1)[:, -logits_to_keep:]
        return self._head(self._norm(kept.reshape(-1, x.shape[-1]))).view(slots, kept.shape[1], -1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The attention of a window, shape (slots, width, heads, dim)."""
        grouped, causal = self._heads > self._kv_heads, mask is None
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal, enable_gqa=grouped)
        return mixed.transpose(1, 2)

    def _attend_grouped(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The same for a narrow window. Heads that share keys become more queries of one head; `mask` has a line for each."""
        slots, heads, width, dim = queries.shape
        queries = queries.reshape(slots, self._kv_heads, -1, dim)
        count = queries.shape[2]
        if count == 1:
            queries = queries.expand(-1, -1, 2, -1)  # a single bfloat16 query takes torch 2.13 three times longer than two
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask)[:, :, :count]
        return mixed.reshape(slots, heads, width, dim).transpose(1, 2)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines to turn heads by, shape (slots, width, 1, dim). The first half of the sines is negative."""
        try:
            angles = F.embedding(positions, self._angles)
        except IndexError:
            self._angles = self._table(2 * (int(positions.max()) + 1))
            angles = F.embedding(positions, self._angles)
        cosines, sines = angles.unsqueeze(2).chunk(2, -1)
        return cosines, sines

    def _table(self, length: int) -> Tensor:
        """Cosines, then sines, of the positions below `length`: shape (length, 2 * dim)."""
        cosines, sines = self._rotary(self._embedding, torch.arange(length)[None])
        half = self._dim // 2
        return torch.cat([cosines[0], -sines[0, :, :half], sines[0, :, half:]], -1)


def new_forward(model: PreTrainedModel, *, eager: bool) -> Forward:
    """The fastest forward of `model` that gives its logits, or the model's own if `eager`."""
    reason = why_eager(model, eager=eager)
    if reason is not None:
        return Forward(model, reason)
    fused = FusedForward(model)
    reason = _difference(model, fused)
    return fused if reason is None else Forward(model, reason)


def _difference(model: PreTrainedModel, fused: FusedForward) -> str | None:
    """That logits of some tokens, then of one more on the cache, are not the model's own; `None` where they differ by rounding.

    A scale that was changed, a patched function of transformers and an attention of one's own are seen in nothing else.
    """
    with evaluation(model), torch.inference_mode():
        ours, theirs = (_tried(model, forward).double() for forward in (fused, Forward(model)))
    known = theirs.isfinite()
    most = float((ours - theirs).abs().where(known, 0).nan_to_num(nan=torch.inf).max())
    if most <= ROUNDING.get(model.dtype, 0.1) * float(theirs.abs().where(known, 0).max()):
        return None
    return f"its own logits differ from those of a fused forward by {most:.2g}: its attributes or functions were changed"


def _tried(model: PreTrainedModel, forward: Forward) -> Tensor:
    """Logits after tokens spread over the vocabulary, the last of them read on the cache."""
    count = min(TRIED, context_limit(model))
    ids = torch.linspace(0, model.get_input_embeddings().weight.shape[0] - 1, count).long()[None]  # type: ignore[union-attr]
    where, cache = torch.arange(count)[None], new_cache(model)
    parts = [part for part in (slice(0, count - 1), slice(count - 1, count)) if part.start < part.stop]
    return torch.cat([forward(ids[:, part], cache, where[:, part], None, logits_to_keep=count) for part in parts], 1)


def why_eager(model: PreTrainedModel, *, eager: bool) -> str | None:
    """Why `new_forward` returns the model's own, in words that follow "because"; `None` when it returns a fused one."""
    return "eager forwards were asked for" if eager else why_not_fused(model)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has packed products for the type on this CPU."""
    if dtype == torch.bfloat16:
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


def why_not_fused(model: PreTrainedModel) -> str | None:
    """Why `model` runs as transformers wrote it, in words that follow "because"; `None` when a `FusedForward` serves it."""
    config = model.config
    name = config.model_type
    if (spread := several_devices(model)) is not None:
        return spread
    if model.device.type != "cpu":
        return f"{model.device.type} has no fused forward"
    if name not in FAMILIES or type(model).__module__ != f"transformers.models.{name}.modeling_{name}":
        return f"{name}'s layers are not one of {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if autocast("cpu") is not None:
        return "autocast is on"
    if len(model.model.layers) != config.num_hidden_layers:
        return f"it has {len(model.model.layers)} layers, and its configuration names {config.num_hidden_layers}"
    kinds = module_kinds(model)
    for path, module in model.named_modules():
        parts = vars(module)
        changed = "forward" in parts or parts["_forward_hooks"] or parts["_forward_pre_hooks"]
        last = path.rpartition(".")[2]
        if changed or type(module) is not kinds.get("layer" if last.isdecimal() else last, type(module)):
            return f"its {path or 'forward'} was replaced, or has hooks"
        weight = parts["_parameters"].get("weight")
        if type(weight) not in (nn.Parameter, type(None)):
            return f"its {path} has weights of type {type(weight).__name__}"
    needed, free = packed_bytes(model), available_bytes()
    if free is not None and needed > SHARE_OF_MEMORY * free:
        return f"packed weights take {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
    return why_not_plain(model) or why_not_static(model)


def module_kinds(model: PreTrainedModel) -> dict[str, type]:
    """The class of each module that a `FusedForward` replaces, by its last name; `layer` is the one of all numbered modules.

    A module of another class (an adapter's, or one's own) computes something else, or has weights that would not be read.
    """
    written, family = sys.modules[type(model).__module__], model.config.model_type.capitalize()
    ours = {"model": "Model", "rotary_emb": "RotaryEmbedding", "layer": "DecoderLayer", "self_attn": "Attention", "mlp": "MLP"}
    norms = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm")
    products = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
    named = {name: getattr(written, family + kind) for name, kind in {**ours, **dict.fromkeys(norms, "RMSNorm")}.items()}
    plain = {"embed_tokens": nn.Embedding, "layers": nn.ModuleList, "act_fn": type(ACT2FN["silu"])}
    return {**named, **plain, **dict.fromkeys(products, nn.Linear)}


def packed_bytes(model: PreTrainedModel) -> int:
    """Bytes that a `FusedForward` holds in addition to the model."""
    copies = 2 if model.dtype == torch.float32 and can_pack(model.dtype) else 1
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    return copies * sum(weight.numel() * weight.element_size() for weight in linear)


def available_bytes() -> int | None:
    """Bytes that can be had without swapping; `None` where the system is not Linux."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
