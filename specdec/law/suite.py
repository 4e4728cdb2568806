"""Proves many strategies under many rules, in as many processes as there are cores.

    proofs = prove_all([Pearl(2), Speculative(3)], ["token", "block"], pairs=200)
    print(proofs)

In a script, call it under `if __name__ == "__main__":`, since each worker process imports the script again. Strategies must be
importable, and rules too unless they are names.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, fields
from inspect import getsourcefile, isroutine
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from specdec.errors import InputError, SpecdecError
from specdec.inputs import at_least_one
from specdec.law.long import NEW_TOKENS
from specdec.law.lossy import MeasuredLoss, how_lossy
from specdec.law.proof import Proof, prove, sizes_of
from specdec.law.sampled import TEXT_TOKENS
from specdec.lengths import POLICIES
from specdec.report import Progress, Report, no_progress, spelled, table
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create, require_strategy
from specdec.verification import Rule, is_lossless, name_of, rule, rules

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

DRAFT_LENGTHS = (1, 2, 3, 4)
LONGEST_OF_POLICIES, POLICY_PAIRS = 2, 5
"""The longest draft with which policies are proved, and how many times fewer pairs they are proved on."""

_Claim: TypeAlias = tuple[DecodingStrategy, "str | Rule", int]
"""A strategy, a rule, and on how many pairs they are proved."""


@dataclass(frozen=True)
class Proofs(Report):
    """What `specdec prove` writes: a proof for each strategy and rule.

    `proofs`        those that were done, in the order of the strategies, and of the rules for each strategy
    `interrupted`   whether Ctrl-C ended the work before all were done
    `measured`      how lossy each rule is on rows of a real pair, where one was given (`--on-pair`)
    """

    format: ClassVar[str] = "specdec.prove/1"

    proofs: tuple[Proof, ...]
    interrupted: bool = False
    measured: tuple[MeasuredLoss, ...] = ()

    @property
    def refuted(self) -> tuple[Proof, ...]:
        """The proofs that failed although the strategy claims to be lossless."""
        return tuple(proof for proof in self.proofs if proof.refuted)

    @property
    def lossy(self) -> tuple[Proof, ...]:
        """The proofs of what claims no losslessness, and has none."""
        return tuple(proof for proof in self.proofs if not (proof.lossless_claimed or proof.exact))

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        refuted = self.refuted
        faults = [
            Text.assemble((f"Refuted: {proof}\n", "bold red"), proof.counterexample or "the law was not computed")
            for proof in refuted
        ]
        exact = sum(proof.exact for proof in self.proofs)
        pairs = sum(proof.pairs + proof.long_pairs for proof in self.proofs)
        summary = Text(
            f"{exact} of {len(self.proofs)} laws equal the target's as fractions, on {pairs} generated model pairs in all; "
            f"{len(refuted)} claim(s) refuted.",
            style="bold red" if refuted else "bold green",
        )
        return Group(self._table(), *faults, summary, *self._horizon(), *self._losses())

    def _horizon(self) -> Iterator[str]:
        """How far the proofs look, in sentences."""
        enumerated = [proof for proof in self.proofs if proof.long_pairs]
        if not enumerated:
            return
        longest = max(proof.new_tokens for proof in enumerated)
        short = max(tokens for proof in enumerated for _, tokens in sizes_of(proof.pairs))
        sampled = max(proof.sampled_tokens for proof in enumerated)
        yield (
            f"Outputs of up to {short} tokens were enumerated, and on some pairs with few open positions outputs of up to "
            f"{longest}; of outputs of {TEXT_TOKENS}, {sampled} tokens were sampled. What begins later is not seen."
        )
        lengths = sorted({length for proof in enumerated if (length := _drafted(proof.parameters))})
        if lengths:
            yield (
                f"Proved for draft length{'s' if len(lengths) > 1 else ''} {', '.join(map(str, lengths))}; "
                "another one needs a proof of its own: --set draft_length=N."
            )
        policies = [proof for proof in enumerated if _has_policy(proof.parameters)]
        if policies:
            names = dict.fromkeys(str(proof.parameters["draft_length"]) for proof in policies)
            strategies = dict.fromkeys(proof.strategy for proof in policies)
            of_each = Counter(spelled(proof.strategy, proof.parameters) for proof in policies)
            yield (
                f"Draft-length policies {', '.join(names)} were proved in {', '.join(strategies)}, each under "
                f"{max(of_each.values())} of the rules and on {policies[0].pairs} pairs."
            )
        if lengths and lengths[-1] >= longest:
            most = lengths[-1]
            yield f"No output of {longest} tokens holds a whole draft of {most}: give --new-tokens {most + 1} or more."

    def _losses(self) -> Iterator[str]:
        """What is lossy, and on real rows how much, in sentences."""
        names = dict.fromkeys(f"{proof.strategy} with the {proof.verification} rule" for proof in self.lossy)
        if names:
            yield f"LOSSY, and not claimed to be else: {', '.join(names)}. Its output has not the target's law."
        yield from map(str, self.measured)

    def _table(self) -> Table:
        means = ("mean total\nvariation",) if self.lossy else ()
        numbers = ("pairs", "longest\noutput", "largest total\nvariation", *means, "exact", "seconds")
        made = table("strategy", "parameters", "rule", numbers=numbers)
        for proof in self.proofs:
            _, _, parameters = spelled(proof.strategy, proof.parameters).partition(" ")
            distance = "-" if proof.max_total_variation is None else f"{proof.max_total_variation:.3g}"
            exact = "yes" if proof.exact else "NO" if proof.refuted else "no (lossy)"
            seconds = f"{proof.seconds:.3g}" if proof.seconds < 1000 else f"{proof.seconds:.0f}"
            mean = "-" if proof.mean_total_variation is None else f"{proof.mean_total_variation:.3g}"
            distances = (distance, mean) if means else (distance,)
            numbers = (str(proof.pairs + proof.long_pairs), str(proof.new_tokens or "-"), *distances, exact, seconds)
            made.add_row(
                proof.strategy, parameters or "-", proof.verification, *numbers, style="bold red" if proof.refuted else ""
            )
        return made


def prove_all(
    strategies: Sequence[DecodingStrategy],
    verifications: Sequence[str | Rule] = (),
    pairs: int = 200,
    seed: int = 0,
    new_tokens: int = NEW_TOKENS,
    progress: Progress = no_progress,
    policies: Sequence[DecodingStrategy] = (),
) -> Proofs:
    """Prove each strategy under each of `verifications`: rules or their names; every lossless one unless some are given.

    Each proof is on `pairs` generated pairs and, for outputs of up to `new_tokens` tokens, on some more; another `seed` gives
    other pairs. `policies` are strategies too, such as those of `with_policies`: each is proved under one rule, all rules in
    turn, on a fifth of the pairs. A strategy whose law cannot be computed gets a proof that is not exact, with the error as its
    counterexample, and so does one whose own file raises something else. The other proofs go on. Ctrl-C ends the work and keeps
    the proofs that are done.
    """
    at_least_one(pairs=pairs, new_tokens=new_tokens)
    for strategy in (*strategies, *policies):
        require_strategy(strategy)
    chosen = list(verifications or rules())
    for verification in chosen:
        rule(verification)  # an unknown name is refused before any work
    claims = [(strategy, verification, pairs) for strategy in strategies for verification in chosen]
    fewer = -(-pairs // POLICY_PAIRS)
    claims += [(strategy, chosen[number % len(chosen)], fewer) for number, strategy in enumerate(policies)]
    for claim in claims:
        _require_importable(claim)
    found: dict[int, Proof] = {}
    interrupted = False
    try:
        for _ in progress(_proved(claims, (seed, new_tokens), found), len(claims)):
            pass
    except KeyboardInterrupt:
        interrupted = True
    return Proofs(tuple(found[number] for number in sorted(found)), interrupted)


def variants(name: str, /, **parameters: Any) -> list[DecodingStrategy]:
    """The strategy of that name with these parameters; at draft lengths 1 to 4 if it has a draft length and none is given."""
    strategy = create(name, **parameters)
    has_length = any(field.name == "draft_length" for field in fields(strategy))  # type: ignore[arg-type]
    if "draft_length" in parameters or not has_length:
        return [strategy]
    return [create(name, **parameters, draft_length=length) for length in DRAFT_LENGTHS]


def with_policies() -> list[DecodingStrategy]:
    """Every installed strategy that drafts with every installed draft-length policy, at most 2 tokens where it has a `most`."""
    drafting = [name for name, cls in available().items() if issubclass(cls, DraftingStrategy)]
    policies = [_short(name, policy) for name, policy in POLICIES.usable().items()]
    return [create(name, draft_length=policy) for name in drafting for policy in policies]


def _short(name: str, policy: Any) -> str:
    """The policy as it is written, with a short longest draft if it has that parameter."""
    return f"{name}:most={LONGEST_OF_POLICIES}" if any(field.name == "most" for field in fields(policy)) else name


def _proved(claims: Sequence[_Claim], settings: tuple[int, int], found: dict[int, Proof]) -> Iterator[Proof]:
    """The proofs as they are done. `found` gets each by the number of its claim. Long drafts begin first: they take longest."""
    longest_first = sorted(range(len(claims)), key=lambda number: _length(claims[number]), reverse=True)
    workers = min(len(claims), os.cpu_count() or 1)
    context, others = multiprocessing.get_context("spawn"), {*multiprocessing.active_children()}
    executor = ProcessPoolExecutor(max(1, workers), context, _begin_worker)
    try:
        waiting = {executor.submit(_prove, *claims[number], *settings): number for number in longest_first}
        for done in as_completed(waiting):
            found[waiting[done]] = proof = done.result()
            yield proof
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process ended while it loaded a strategy or the script: define strategies at the top of a module, "
            'and call prove_all under `if __name__ == "__main__":`'
        ) from error
    finally:
        for worker in {*multiprocessing.active_children()} - others:
            worker.terminate()
        executor.shutdown(cancel_futures=True)


def _length(claim: _Claim) -> int:
    return _drafted(claim[0].parameters)


def _drafted(parameters: Mapping[str, Any]) -> int:
    length = parameters.get("draft_length", 0)
    return length if isinstance(length, int) else 0


def _has_policy(parameters: Mapping[str, Any]) -> bool:
    return parameters.get("draft_length", "auto") != "auto" and not _drafted(parameters)


def _prove(strategy: DecodingStrategy, verification: str | Rule, pairs: int, seed: int, new_tokens: int) -> Proof:
    claimed = strategy.lossless and is_lossless(verification)
    try:
        return (
            prove(strategy, verification, pairs, seed, new_tokens)
            if claimed
            else how_lossy(strategy, verification, pairs, seed)
        )
    except SpecdecError as error:
        fault = str(error)
    except Exception as error:
        line = _line_of(error, strategy, rule(verification))
        if line is None or isinstance(error, MemoryError):
            raise
        fault = f"{line}: {type(error).__name__}: {error}: correct it"
    return Proof(strategy.name, strategy.parameters, name_of(verification), claimed, 0, None, False, 0.0, fault)


def _line_of(error: Exception, strategy: DecodingStrategy, verification: Rule) -> str | None:
    """The last line of the strategy's, the policy's or the rule's own file that led to an error; `None` where none did."""
    things: list[Any] = [type(strategy), verification if isroutine(verification) else type(verification)]
    things += [type(strategy.policy)] if isinstance(strategy, DraftingStrategy) else []
    files: set[str | None] = set()
    for thing in things:
        with suppress(TypeError):  # it was made without a file
            files.add(getsourcefile(thing))
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename in files]
    return f"{Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else None


def _require_importable(claim: _Claim) -> None:
    try:
        pickle.dumps(claim)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"{claim[0]} under {name_of(claim[1])} cannot be sent to a worker process ({error}): "
            "define it at the top of a module"
        ) from error


def _begin_worker() -> None:
    """In a worker: Ctrl-C is handled by the parent, which ends its workers. The parent warned of plug-ins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", "left out: ", RuntimeWarning)
