"""Runs the installed checks of a strategy, and holds most of them.

    lossless   the exact law under every lossless rule
    decodes    budgets, end-of-sequence tokens and stop conditions in the middle of a round, on real models
    rows       each guess is verified with the row it was sampled from, and no cache changes a row
    lanes      the same seed gives the same tokens with the draft in a thread and in a process

A check is a function of a strategy. It raises an `AssertionError`, or a `SpecdecError`, that says what is wrong. Packages add
checks in the entry-point group `specdec.checks`; the simulator adds `simulates`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from specdec.errors import CheckFailed, SpecdecError
from specdec.law.proof import assert_lossless
from specdec.plugins import Plugins
from specdec.strategy import DecodingStrategy
from specdec.testing.watched import NOISES, PROMPTS, races, watched_rows

Check: TypeAlias = Callable[[DecodingStrategy], None]
"""A check of one strategy."""

CHECKS: Plugins[Check] = Plugins("specdec.checks", "check", "function of a strategy", lambda _, it: callable(it))

BUDGETS = (1, 2, 16)


def checks() -> dict[str, Check]:
    """Every installed check by name. A `RuntimeWarning` names those that cannot be used."""
    return CHECKS.usable()


def run_checks(strategy: DecodingStrategy) -> tuple[str, ...]:
    """Run every installed check. Returns their names, or raises `CheckFailed` with all faults that were found.

    A check that cannot be loaded is a fault too, since nobody knows what it would have found. Give the strategy short draft
    lengths, such as 2: the cost of its exact law grows fast with them.
    """
    found, broken = CHECKS.sorted_out()
    faults = [f"{name}: {fault}" for name, fault in broken.items()]
    unforeseen: Exception | None = None
    for name, check in found.items():
        try:
            check(strategy)
        except (AssertionError, SpecdecError) as fault:
            faults.append(f"{name}: {fault}")
        except Exception as fault:  # a strategy of a stranger's may raise anything; the other checks still say what they see
            unforeseen = fault
            faults.append(f"{name}: {type(fault).__name__}: {fault}")
    if faults:
        raise CheckFailed(
            "\n".join([f"{strategy} fails {len(faults)} of {len(found) + len(broken)} checks", *faults])
        ) from unforeseen
    return tuple(found)


def lossless(strategy: DecodingStrategy) -> None:
    """A strategy that claims to be lossless has the target's law, as fractions, under every installed rule."""
    if strategy.lossless:
        assert_lossless(strategy)


def decodes(strategy: DecodingStrategy) -> None:
    """On real models, an output ends at its budget, at an end-of-sequence token, and where a stop condition says so.

    At temperature 0 a lossless strategy gives the target's own tokens.
    """
    from specdec.testing.models import greedy_tokens
    from specdec.testing.pair import tiny_pair

    for noise in NOISES:
        with tiny_pair(noise) as pair:
            for prompt in PROMPTS:
                targets = greedy_tokens(pair.target, prompt, max(BUDGETS)) if strategy.lossless else None
                for budget in BUDGETS:
                    _decodes(strategy, pair, prompt, budget, targets)


def _decodes(
    strategy: DecodingStrategy, pair: Any, prompt: tuple[int, ...], budget: int, targets: tuple[int, ...] | None
) -> None:
    from specdec.decoding import decode

    for temperature in (0.0, 1.0):
        options: dict[str, Any] = {"max_new_tokens": budget, "temperature": temperature, "seed": budget}
        result = decode(pair, strategy, prompt, eos=(), **options)
        case = f"{strategy} after prompt {prompt} at temperature {temperature:g}"
        _expect(len(result.tokens) == budget, f"{case} made {len(result.tokens)} tokens, and {budget} were asked for")
        if temperature == 0 and targets is not None:
            alone = targets[:budget]
            _expect(result.tokens == alone, f"{case} made {result.tokens}, and the target alone makes {alone}")
        eos = result.tokens[budget // 2]
        tokens = decode(pair, strategy, prompt, eos={eos}, **options).tokens
        ended = tokens.index(eos) + 1 if eos in tokens else budget
        _expect(len(tokens) == ended, f"{case} made {tokens}, which does not end at its end-of-sequence token {eos}")
        if budget == max(BUDGETS):
            stopped = decode(pair, strategy, prompt, eos=(), stop=_ends_at(len(prompt) + budget // 2), **options)
            half = stopped.tokens if races(strategy) else result.tokens  # a text that the clock guides does not come again
            made = stopped.tokens, stopped.finished_by
            _expect(made == (half[: budget // 2], "half"), f"{case} made {made}, and not the half")


def rows(strategy: DecodingStrategy) -> None:
    """In a sampled decode on real models, rows are those of forwards without a cache, and guesses keep theirs."""
    watched_rows(strategy)


def lanes(strategy: DecodingStrategy) -> None:
    """The same seed gives the same tokens wherever the draft works, unless the strategy races."""
    from specdec.decoding import decode
    from specdec.testing.pair import tiny_pair

    made: dict[str, tuple[int, ...]] = {}
    for lane in ("inline", "thread", "process") if strategy.drafts else ("inline",):
        with tiny_pair(lane=lane) as pair:
            made[lane] = decode(pair, strategy, PROMPTS[1], max_new_tokens=16, temperature=1, seed=3, eos=()).tokens
    if not races(strategy):
        other = next((lane for lane in made if made[lane] != made["inline"]), "inline")
        _expect(other == "inline", f"{strategy} made {made[other]} with the draft in a {other}, and {made['inline']} without")


def _ends_at(length: int) -> Callable[[tuple[int, ...]], str | None]:
    """A stop condition that ends a text of so many tokens."""
    return lambda text: "half" if len(text) >= length else None


def _expect(condition: bool, fault: str) -> None:
    if not condition:
        raise AssertionError(fault)
