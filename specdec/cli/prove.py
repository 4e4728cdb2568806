"""`specdec prove`: compares the exact law of strategies with the target's."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import options, parsing
from specdec.cli.completion import rule_names, strategy_names
from specdec.cli.console import Terminal
from specdec.errors import InputError
from specdec.strategy import available

LONGEST_PROVED = 12
"""Draft length; every further token trebles the branches that are followed."""


def prove(
    strategy: Annotated[
        list[str] | None,
        typer.Argument(
            help="Strategies to prove, as specdec strategies lists them; or yours: module:Class, ./file.py:Class.",
            autocompletion=strategy_names,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Prove every installed strategy.")] = False,
    settings: options.Parameters = None,
    verification: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            autocompletion=rule_names,
            help="Rule to prove, such as token, match or block; may be repeated. All unless given.",
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Generated model pairs for each proof.")] = 200,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="The longest outputs to enumerate, where few positions are open; 24 unless given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other model pairs.")] = 0,
    json: options.Json = None,
) -> None:
    """Prove that strategies are lossless, in exact fractions.

    Every branch of every random choice is followed on small generated model pairs, and the law of outputs of 1 to 4 tokens is
    compared with the target's; where few positions are open, that of outputs of up to 24. Outputs of 64 tokens are sampled.
    What begins later is not seen. Strategies with a draft length are tried with 1 to 4. Exits with 1, and shows a smallest
    counterexample, if a strategy that claims to be lossless is not.

    Examples:
      specdec prove --all
      specdec prove pearl --verification block --pairs 1000
      specdec prove speculative --set draft_length=5 --json proof.json
      specdec prove pearl --set draft_length=2 --new-tokens 100
    """
    from specdec.law.long import NEW_TOKENS
    from specdec.law.suite import prove_all, variants

    terminal = Terminal(json)
    if every == bool(strategy):
        raise InputError("nothing to prove: name one or more strategies, or give --all (not both)")
    chosen = parsing.parameters(settings)
    if isinstance(length := chosen.get("draft_length"), int) and length > LONGEST_PROVED:
        raise InputError(f"draft length {length} has too many branches to follow: prove at most {LONGEST_PROVED}")
    strategies = [variant for name in parsing.several(strategy) or available() for variant in variants(name, **chosen)]
    proofs = prove_all(strategies, verification or (), pairs, seed, new_tokens or NEW_TOKENS, progress=terminal.follow)
    terminal.console.print(proofs)
    terminal.write(proofs.to_dict())
    if proofs.interrupted:
        raise KeyboardInterrupt
    if proofs.refuted:
        raise typer.Exit(1)
