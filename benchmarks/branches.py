"""Which outcomes a fork should prepare for: how often it hits, by the way in which its branches are divided.

    python benchmarks/branches.py --json benchmarks/results/HARDWARE_DATE_branches.json

The draft of the bundled pair makes windows at temperature 1 on texts that the target sampled. Both models' rows give the exact
chance of each number of accepted guesses (token rule), and races with shared noise (`specdec.sampling.raced`) give the rank at
which the draft foresees the target's token. Nothing is timed. The ways to divide the same number of branches:

    equally      as many after each number of accepted guesses: `Saguaro`'s default
    published    by the formula of SSD (`specdec.acceptance.divided`), at the pair's acceptance rate
    measured     the likeliest outcomes, by the mean acceptance rate and the measured chance of each rank
    confidence   the same, but each guess has the acceptance rate of its entropy under `q`: of twelve groups of equal size
    known        the same, but each guess has its true acceptance rate, which no draft knows: a bound

Chances of ranks, and rates of groups, come from every other window; hits are counted on the rest. `foresight` in the file has
the chances by position too: how often the target's token is among the first 1, 2, ... that are foreseen, after each number of
accepted guesses.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from specdec import Pair, prompts
from specdec.acceptance import MOST_FORESEEN, divided
from specdec.machine import versions
from specdec.measure import hardware
from specdec.text import prompt_tokens
from strategies.saguaro import POWER

LENGTHS, FAN_OUTS = (3, 4, 5), (1, 2, 3, 4)
RANKS, RACES, GROUPS = 16, 8, 12
EVERY = 3
"""Tokens from the start of a window to that of the next."""


def windows(pair: Pair, length: int, new_tokens: int, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Guesses of the draft, shape (windows, length), and rows `p` and `q`, shape (windows, length + 1, vocabulary)."""
    target, draft = pair.target, pair.draft
    assert draft is not None
    guesses: list[Tensor] = []
    rows: list[list[Tensor]] = [[], []]
    for prompt in prompts.bundled()[:limit]:
        text = torch.tensor([prompt_tokens(pair, prompt)])
        first = text.shape[1]
        for _ in range(new_tokens):
            text = torch.cat([text, target(text).logits[:, -1].softmax(-1).multinomial(1)], 1)
        for start in range(first, text.shape[1], EVERY):
            window = text[:, :start]
            for _ in range(length):
                window = torch.cat([window, draft(window).logits[:, -1].softmax(-1).multinomial(1)], 1)
            guesses.append(window[0, start:])
            for found, model in zip(rows, (target, draft), strict=True):
                found.append(model(window).logits[0, start - 1 :].double().softmax(-1))
    return torch.stack(guesses), torch.stack(rows[0]), torch.stack(rows[1])


def ranks(guesses: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The rank at which the draft foresees the target's token, shape (races, windows, length + 1).

    In the last column all guesses were accepted; in the others, that guess was rejected.
    """
    residual = torch.cat([(p[:, :-1] - q[:, :-1]).clamp(min=0), p[:, -1:]], 1)
    foreseen = torch.cat([q[:, :-1].scatter(-1, guesses.unsqueeze(-1), 0), q[:, -1:]], 1)
    found: list[Tensor] = []
    for _ in range(RACES):
        noise = torch.empty(len(p), 1, p.shape[-1], dtype=p.dtype).exponential_()
        token = (residual / noise).argmax(-1, keepdim=True)
        order = foreseen / noise
        found.append((order > order.gather(-1, token)).sum(-1))
    return torch.stack(found)


def by_position(guesses: Tensor, p: Tensor, q: Tensor) -> list[list[float]]:
    """After 0, 1, ... accepted guesses: the chance that the target's token is among the first 1, 2, ... that are foreseen."""
    reached = outcomes(accepted_of(guesses, p, q))
    found = one_hot(ranks(guesses, p, q).clamp(max=RANKS), RANKS + 1)[..., :RANKS].double().mean(0)
    return ((reached.unsqueeze(-1) * found).sum(0) / reached.sum(0).unsqueeze(-1)).cumsum(-1)[:, :MOST_FORESEEN].tolist()


def accepted_of(guesses: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The chance that each guess is accepted, shape (windows, length)."""
    chosen = guesses.unsqueeze(-1)
    return (p[:, :-1].gather(-1, chosen) / q[:, :-1].gather(-1, chosen)).squeeze(-1).clamp(max=1)


def outcomes(accepted: Tensor) -> Tensor:
    """Chance of 0, 1, ... accepted guesses, shape (windows, length + 1), from each guess's own, shape (windows, length)."""
    reached = torch.cat([torch.ones_like(accepted[:, :1]), accepted.cumprod(-1)], 1)
    return torch.cat([reached[:, :-1] * (1 - accepted), reached[:, -1:]], 1)


def by_entropy(q: Tensor, accepted: Tensor, fit: Tensor) -> Tensor:
    """The mean acceptance rate of guesses with about that entropy under `q`, in the windows to `fit`."""
    entropy = torch.special.entr(q).sum(-1)
    edges = entropy[fit].quantile(torch.linspace(0, 1, GROUPS + 1, dtype=q.dtype)[1:-1])
    group = torch.bucketize(entropy, edges)
    return torch.stack([accepted[fit][group[fit] == number].mean() for number in range(GROUPS)])[group]


def hits(guesses: Tensor, p: Tensor, q: Tensor) -> list[dict[str, Any]]:
    """How often each way hits, by draft length and number of branches."""
    length = guesses.shape[1]
    accepted = accepted_of(guesses, p, q)
    fit = torch.arange(len(p)) % 2 == 0
    of_rank = one_hot(ranks(guesses, p, q).clamp(max=RANKS), RANKS + 1)[..., :RANKS].double().mean(0)
    true = outcomes(accepted).unsqueeze(-1) * of_rank  # (windows, accepted, rank)
    chances = true[fit].sum(0)  # the last line is that of a full acceptance
    after_rejection, after_all = chances[:-1].sum(0), chances[-1]
    reached = outcomes(accepted)[fit].sum(0)
    rank = torch.stack([after_rejection / reached[:-1].sum()] * length + [after_all / reached[-1]])
    rate = float(accepted[fit].mean())
    rates = {
        "measured": torch.full_like(accepted, rate),
        "confidence": by_entropy(q[:, :-1], accepted, fit),
        "known": accepted,
    }
    found: list[dict[str, Any]] = []
    for fan_out in FAN_OUTS:
        branches = fan_out * (length + 1)
        fixed = {"equally": (fan_out,) * (length + 1), "published": divided(branches, length, rate, POWER)}
        share = {way: sum(float(true[~fit, j, :n].sum()) for j, n in enumerate(fans)) for way, fans in fixed.items()}
        for way, of_guess in rates.items():
            likeliest = (outcomes(of_guess).unsqueeze(-1) * rank).flatten(1).topk(branches).indices
            share[way] = float(true.flatten(1).gather(1, likeliest)[~fit].sum())
        count = int((~fit).sum())
        found.append({"length": length, "branches": branches} | {way: hit / count for way, hit in share.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--new-tokens", type=int, default=192, help="tokens that the target samples after each prompt")
    parser.add_argument("--limit", type=int, help="use only so many prompts")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # with more, other work on the machine would make each forward wait for its slowest thread
    with Pair.bundled(dtype="float32") as pair, torch.inference_mode():
        machine = {**hardware(pair).to_dict(), **versions(), "date": date.today().isoformat()}
        guesses, p, q = windows(pair, max(LENGTHS), options.new_tokens, options.limit)
    found = [one for length in LENGTHS for one in hits(guesses[:, :length], p[:, : length + 1], q[:, : length + 1])]
    for one in found:
        print(*(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in one.items()))
    if options.json:
        named = {"hardware": machine, "windows": len(p), "results": found, "foresight": by_position(guesses, p, q)}
        options.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
