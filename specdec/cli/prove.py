"""`specdec prove`: compares the exact law of strategies with the target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import options, parsing
from specdec.cli.completion import rule_names, strategy_names
from specdec.cli.console import Terminal
from specdec.effects import Committed
from specdec.errors import InputError
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy, DraftingStrategy, available
from specdec.synthetic import synthetic
from specdec.verification import is_lossless, rules

if TYPE_CHECKING:
    from specdec.law import MeasuredLoss

LONGEST_PROVED = 12
"""Draft length; every further token trebles the branches that are followed."""


ROW_TOKENS = 16
"""Tokens that the target samples after each bundled prompt, on whose rows rules are measured."""


def prove(
    models: options.ModelOptions,
    strategy: Annotated[
        list[str] | None,
        typer.Argument(
            help="Strategies to prove, as specdec strategies lists them; or yours: module:Class, ./file.py:Class.",
            autocompletion=strategy_names,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Prove every installed strategy, and every policy.")] = False,
    settings: options.Parameters = None,
    verification: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            autocompletion=rule_names,
            help="Rule to prove, such as token, match or block, or your ./file.py:function; may be repeated. All lossless ones "
            "unless given.",
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Generated model pairs for each proof.")] = 200,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="The longest outputs to enumerate, where few positions are open; 24 unless given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other model pairs.")] = 0,
    on_pair: Annotated[
        bool,
        typer.Option(
            "--on-pair", help="Measure too how lossy each rule is on rows of a real pair: the bundled one, or --target."
        ),
    ] = False,
    json: options.Json = None,
) -> None:
    """Prove that strategies are lossless, in exact fractions.

    Every branch of every random choice is followed on small generated model pairs, and the law of outputs of 1 to 4 tokens is
    compared with the target's; where few positions are open, that of outputs of up to 24. Outputs of 64 tokens are sampled.
    What begins later is not seen. Strategies with a draft length are tried with 1 to 4 and, with --all, with each policy that
    chooses it, under one rule and on a fifth of the pairs. Exits with 1, and shows a smallest
    counterexample, if a strategy and a rule that claim to be lossless are not. Of those that claim nothing, such as
    --verification typical, it says how lossy they are.

    Examples:
      specdec prove --all
      specdec prove pearl --verification block --pairs 1000
      specdec prove speculative --set draft_length=5 --json proof.json
      specdec prove pearl --set draft_length=2 --new-tokens 100
      specdec prove speculative --verification typical --on-pair
    """
    from specdec.law.long import NEW_TOKENS
    from specdec.law.suite import prove_all, variants, with_policies

    terminal = Terminal(json)
    if every == bool(strategy):
        raise InputError("nothing to prove: name one or more strategies, or give --all (not both)")
    chosen = parsing.parameters(settings)
    strategies = [variant for name in parsing.several(strategy) or available() for variant in variants(name, **chosen)]
    for one in strategies:
        _require_short(one)
    for name in verification or ():
        if synthetic(name):
            raise InputError(f"{name} forces acceptance, so there is no law to prove: name a rule")
    claimed = any(map(is_lossless, verification or rules())) and any(one.lossless for one in strategies)
    if new_tokens is not None and not claimed:
        raise InputError("--new-tokens is for what claims to be lossless, and nothing here does: leave it out")
    if not on_pair and models != options.ModelOptions():
        raise InputError("--target and what else says which models to take is for --on-pair: give it too")
    policies = with_policies() if every and not chosen else ()
    proofs = prove_all(
        strategies, verification or (), pairs, seed, new_tokens or NEW_TOKENS, terminal.follow, policies=policies
    )
    try:
        if on_pair and not proofs.interrupted:
            proofs = replace(proofs, measured=measured(models, verification or list(rules())))
    finally:  # a pair that cannot be loaded loses no proof
        terminal.report(proofs)
    if proofs.interrupted:
        raise KeyboardInterrupt
    if proofs.refuted:
        raise typer.Exit(1)


def _require_short(strategy: DecodingStrategy) -> None:
    """Refuse a strategy whose first draft has too many branches."""
    if isinstance(strategy, DraftingStrategy):
        length = strategy.policy.length(strategy.init(Committed((0,)), KnownFacts()).memory)
        if length > LONGEST_PROVED:
            raise InputError(f"draft length {length} has too many branches to follow: prove at most {LONGEST_PROVED}")


def measured(models: options.ModelOptions, verifications: Sequence[str]) -> tuple[MeasuredLoss, ...]:
    """How lossy the rules are on the pair that the options name."""
    from specdec.measure.acceptance import measure_loss
    from specdec.prompts import bundled
    from specdec.text import prompt_tokens

    with models.load() as pair:
        prompts = [prompt_tokens(pair, text) for text in bundled()]
        return measure_loss(pair, verifications, prompts, ROW_TOKENS)
