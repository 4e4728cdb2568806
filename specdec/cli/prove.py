"""`specdec prove`: the exact law of strategies against the target's."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import options
from specdec.cli.console import Terminal
from specdec.errors import InputError, SpecdecError
from specdec.strategy import DecodingStrategy, available, create

if TYPE_CHECKING:
    from rich.table import Table

    from specdec.law import Proof

DRAFT_LENGTHS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Claim:
    """A strategy and a verification rule, to be proved on generated pairs."""

    strategy: DecodingStrategy
    verification: str


@dataclass(frozen=True)
class Outcome:
    """A claim with its proof, or with the error that ended the attempt."""

    claim: Claim
    proof: Proof | None
    fault: str | None

    def __str__(self) -> str:
        return f"{self.claim.strategy}, {self.claim.verification} rule"

    @property
    def exact(self) -> bool:
        return self.proof is not None and self.proof.exact

    @property
    def refuted(self) -> bool:
        return self.claim.strategy.lossless and not self.exact


def prove(
    strategy: Annotated[list[str] | None, typer.Argument(help="Strategies to prove; see specdec strategies.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Prove every installed strategy.")] = False,
    settings: options.Parameters = None,
    verification: Annotated[
        list[options.Verification] | None, typer.Option(help="Rule to prove; may be repeated. All three unless given.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Generated model pairs for each proof.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed gives other model pairs.")] = 0,
    json: options.Json = None,
) -> None:
    """Prove that strategies are lossless, in exact fractions.

    Every branch of every random choice is enumerated on small generated model pairs, and the law of the output is compared
    with the target's. Strategies with a draft length are tried with 1 to 4. Exits with 1, and shows a smallest
    counterexample, if a strategy that claims to be lossless is not.

    Examples:
      specdec prove --all
      specdec prove pearl --verification block --pairs 1000
      specdec prove speculative --set draft_length=5 --json proof.json
    """
    output = Terminal(json)
    if every == bool(strategy):
        raise InputError("nothing to prove: name one or more strategies, or give --all (not both)")
    if pairs < 1:
        raise InputError(f"{pairs} pairs prove nothing: give --pairs of at least 1")
    rules = [rule.value for rule in verification or options.Verification]
    chosen = options.parameters(settings)
    claims = [Claim(variant, rule) for name in strategy or available() for variant in variants(name, chosen) for rule in rules]
    outcomes: dict[Claim, Outcome] = {}
    interrupted = False
    try:
        for outcome in output.follow(proved(claims, pairs, seed), len(claims)):
            outcomes[outcome.claim] = outcome
    except KeyboardInterrupt:
        interrupted = True
    done = [outcomes[claim] for claim in claims if claim in outcomes]
    show(output, done)
    output.write([reported(outcome) for outcome in done])
    if interrupted:
        raise KeyboardInterrupt
    if any(outcome.refuted for outcome in done):
        raise typer.Exit(1)


def variants(name: str, chosen: dict[str, Any]) -> list[DecodingStrategy]:
    """The strategy with the chosen parameters, at each draft length unless that was chosen too."""
    strategy = create(name, **chosen)
    has_length = any(field.name == "draft_length" for field in fields(strategy))  # type: ignore[arg-type]
    if "draft_length" in chosen or not has_length:
        return [strategy]
    return [create(name, **chosen, draft_length=length) for length in DRAFT_LENGTHS]


def proved(claims: Sequence[Claim], pairs: int, seed: int) -> Iterator[Outcome]:
    """The outcomes, as they come, from as many processes as there are cores."""
    longest_first = sorted(claims, key=_work, reverse=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), initializer=_leave_interrupts_alone) as pool:
        yield from pool.imap_unordered(partial(attempt, pairs=pairs, seed=seed), longest_first)


def _work(claim: Claim) -> int:
    length = claim.strategy.parameters.get("draft_length", 0)
    return length if isinstance(length, int) else 0


def attempt(claim: Claim, pairs: int, seed: int) -> Outcome:
    """Prove one claim."""
    from specdec import law

    try:
        proof = law.prove(claim.strategy, claim.verification, pairs, seed)
    except SpecdecError as error:
        return Outcome(claim, None, str(error))
    return Outcome(claim, proof, proof.counterexample)


def _leave_interrupts_alone() -> None:
    """In a worker: Ctrl-C is the parent's business, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def reported(outcome: Outcome) -> dict[str, Any]:
    """One row of the JSON. `counterexample` is there only where there is one."""
    proof, claim = outcome.proof, outcome.claim
    row = {
        "strategy": claim.strategy.name,
        "parameters": claim.strategy.parameters,
        "verification": claim.verification,
        "lossless_claimed": claim.strategy.lossless,
        "pairs": proof.pairs if proof else 0,
        "max_total_variation": float(proof.max_total_variation) if proof else None,
        "exact": outcome.exact,
        "seconds": proof.seconds if proof else 0.0,
    }
    return row | ({"counterexample": outcome.fault} if outcome.fault else {})


def show(output: Terminal, outcomes: Sequence[Outcome]) -> None:
    """Print the table, the counterexamples of refuted claims, and a verdict."""
    console = output.console
    console.print(table(outcomes))
    refuted = [outcome for outcome in outcomes if outcome.refuted]
    for outcome in refuted:
        console.print(f"[bold red]Refuted:[/] {outcome}")
        console.print(outcome.fault, markup=False, soft_wrap=True)
    pairs = sum(outcome.proof.pairs for outcome in outcomes if outcome.proof)
    exact = sum(outcome.exact for outcome in outcomes)
    console.print(
        f"{exact} of {len(outcomes)} laws equal the target's as fractions, on {pairs} generated model pairs in all; "
        f"{len(refuted)} claim(s) refuted.",
        style="bold red" if refuted else "bold green",
    )


def table(outcomes: Sequence[Outcome]) -> Table:
    """One row a proof."""
    from rich import box
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("strategy", "parameters", "rule"):
        rows.add_column(heading)
    for heading in ("pairs", "largest total\nvariation", "exact", "seconds"):
        rows.add_column(heading, justify="right")
    for outcome in outcomes:
        row = reported(outcome)
        parameters = " ".join(f"{name}={value}" for name, value in row["parameters"].items())
        distance = "-" if row["max_total_variation"] is None else f"{row['max_total_variation']:.3g}"
        exact = "yes" if outcome.exact else "NO" if outcome.refuted else "no (lossy)"
        style = "bold red" if outcome.refuted else ""
        cells = (row["strategy"], parameters or "-", row["verification"], str(row["pairs"]), distance, exact)
        rows.add_row(*cells, f"{row['seconds']:.2f}", style=style)
    return rows
