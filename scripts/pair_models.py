"""The two models of the bundled pair: shapes, losses, optimizers and sampling. See `train_pair.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from pair_documents import CONTEXT, VOCAB
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SHAPES: dict[str, dict[str, Any]] = {  # deep and narrow against shallow: eager latency grows with the number of layers
    "target": {"num_hidden_layers": 28, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 2},
    "draft": {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4},
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(name: str, vocabulary: int = VOCAB) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, **SHAPES[name],
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    return model.to(DEVICE)


def load(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights of the model in `folder`. Where that is shallower, each of its layers is followed by copies that add nothing
    to their input yet, so that the deeper model begins as the same function (block expansion, arXiv 2401.02415)."""
    small = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted, there = model.config.num_hidden_layers, small.config.num_hidden_layers
    copies, rest = divmod(wanted, there)
    if rest:
        raise SystemExit(f"{folder} has {there} layers, and {wanted} are no multiple of that")
    state = {}
    for name, value in small.state_dict().items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        for copy in range(copies):
            new = f"model.layers.{int(layer[1]) * copies + copy}.{layer[2]}" if layer else name
            state[new] = value * 0 if copy and new.endswith(("o_proj.weight", "down_proj.weight")) else value
    model.load_state_dict(state)


def logits_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return model(ids, use_cache=False).logits


def draft_losses(p_logits: torch.Tensor, q_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p||q) and total variation (1 - acceptance), both averaged over the positions."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    p = log_p.exp()
    kl = (p.detach() * (log_p.detach() - log_q)).sum(-1).mean()  # teaches the draft alone
    return kl, 0.5 * (p - log_q.exp()).abs().sum(-1).mean()


def is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether a weight is a matrix of a layer, and not a norm or the embedding, which is the head too."""
    return name.startswith("model.layers.") and weight.ndim == 2


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if is_matrix(n, p)]
    others = [p for n, p in model.named_parameters() if not is_matrix(n, p)]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def update(model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer], rate: float) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        stepper.zero_grad(set_to_none=True)


@torch.no_grad()
def sample(model: LlamaForCausalLM, prompts: torch.Tensor, count: int,
           mask: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    """Continue (left-padded, if a mask is given) prompts by `count` tokens at temperature 1."""
    cache, ids, new = DynamicCache(config=model.config), prompts, prompts
    mask = torch.ones_like(prompts) if mask is None else mask
    for _ in range(count):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
        out = model(new, attention_mask=mask, position_ids=positions, past_key_values=cache,
                    logits_to_keep=1)  # fmt: skip
        new = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
    return ids


def export(out: Path, tokenizer: PreTrainedTokenizerFast, pair: dict[str, LlamaForCausalLM]) -> None:
    """Write both models. `from_pretrained` widens the matrices of the layers, which are stored as float8, to bfloat16."""
    for name, model in pair.items():
        copy: Any = LlamaForCausalLM(model.config)
        copy.load_state_dict(model.state_dict())
        weights = copy.to(torch.bfloat16).state_dict()
        stored = {key: weight.to(torch.float8_e4m3fn) if is_matrix(key, weight) else weight for key, weight in weights.items()}
        copy.save_pretrained(out / name, state_dict=stored)
        tokenizer.save_pretrained(out / name)
