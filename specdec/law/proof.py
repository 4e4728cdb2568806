"""Proof of losslessness by example, exhaustively on each: generated pairs, the exact law, and a smallest counterexample.

    assert_lossless(MyStrategy())      in a test: raises `NotLossless`, or returns the proof

Pairs are tables over 2 to 4 tokens whose rows depend on the whole history. Each kind breaks some wrong rule: rows with zeros,
with ties, p = q, disjoint supports, one-hot rows, mixtures of all, each with and without an end-of-sequence token. A wrong rule
may be invisible on one pair, hence many, or move the law by less than any affordable sample shows, hence fractions. Each pair
has a schedule of its own for drafts that race the target; half of these depend on the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import cycle, islice
from random import Random

from specdec.errors import InputError, NotLossless
from specdec.law.exact import ExactLaw, ExactPair, ExactRow, Scattered, Schedule, Tokens, law, target_law, total_variation
from specdec.strategy import DecodingStrategy
from specdec.verification import RULES, Rule

PROMPT: Tokens = (0,)

KINDS = ("zeros", "ties", "equal", "disjoint", "one-hot", "mixed")

SIZES = [(2, 1), (3, 1), (2, 2), (4, 1), (2, 3), (3, 2), (4, 2), (2, 4), (3, 3), (4, 3), (3, 4), (4, 4)]
"""(vocabulary, new tokens) of the generated pairs, small ones first, so that the first failure is a small one."""

SHARES = [12, 24, 18, 12, 42, 30, 6, 36, 12, 3, 4, 1]
"""How many of 200 pairs have each size."""


class Table:
    """One model: a row for every history, made when first asked for and then kept."""

    def __init__(self, row: Callable[[Tokens], ExactRow]) -> None:
        self.rows: dict[Tokens, ExactRow] = {}
        self._row = row

    def __call__(self, context: Tokens) -> ExactRow:
        if context not in self.rows:
            self.rows[context] = self._row(context)
        return self.rows[context]


@dataclass(frozen=True)
class Case:
    """One generated pair, the number of tokens to decode from it, and the facts and the schedule to decode with."""

    p: Table
    q: Table
    vocabulary: int
    new_tokens: int
    eos: int | None
    kind: str
    speed_ratio: float
    schedule: Schedule

    @property
    def pair(self) -> ExactPair:
        return ExactPair(self.vocabulary, self.p, self.q, self.eos)

    @cached_property
    def target_law(self) -> ExactLaw:
        return target_law(self.pair, PROMPT, self.new_tokens)

    def law(self, strategy: DecodingStrategy, verification: str | Rule) -> ExactLaw:
        """The strategy's law."""
        return law(strategy, self.pair, PROMPT, self.new_tokens, verification, self.speed_ratio, self.schedule)


@dataclass(frozen=True)
class Proof:
    """What was proved: on how many pairs, the largest total variation distance, and whether all laws were equal."""

    strategy: DecodingStrategy
    verification: str
    pairs: int
    max_total_variation: Fraction
    seconds: float
    counterexample: str | None = None

    @property
    def exact(self) -> bool:
        return self.max_total_variation == 0


@lru_cache(maxsize=4)
def cases(count: int = 200, seed: int = 0) -> tuple[Case, ...]:
    """`count` generated pairs, small ones first, every kind in every size."""
    return tuple(_cases(count, seed))


def _cases(count: int, seed: int) -> Iterator[Case]:
    sizes = [size for size, share in zip(SIZES, SHARES, strict=True) for _ in range(max(1, round(share * count / 200)))]
    kinds = cycle(KINDS)
    chosen = sorted(islice(cycle(sizes), count), key=SIZES.index)
    for number, (vocabulary, new_tokens) in enumerate(chosen):
        eos = vocabulary - 1 if number // len(KINDS) % 2 else None
        name = f"{seed} {number}"
        schedule = Scattered(name, by_tokens=number // 4 % 2 == 1)
        yield generated_case(vocabulary, new_tokens, eos, next(kinds), name, 1.0 + number % 4, schedule)


def generated_case(
    vocabulary: int, new_tokens: int, eos: int | None, kind: str, name: str, speed_ratio: float, schedule: Schedule
) -> Case:
    """A pair of `kind` whose rows depend on `name` and on the whole history."""

    def row(model: str, context: Tokens) -> ExactRow:
        random = Random(f"{name} {context}")
        of_kind = random.choice(KINDS[:-1]) if kind == "mixed" else kind
        if of_kind != "equal":
            random = Random(f"{name} {model} {context}")
        return generated_row(random, of_kind, model, context, vocabulary)

    p, q = (Table(lambda context, model=model: row(model, context)) for model in "pq")
    return Case(p, q, vocabulary, new_tokens, eos, kind, speed_ratio, schedule)


def generated_row(random: Random, kind: str, model: str, context: Tokens, vocabulary: int) -> ExactRow:
    """One row of fractions with small denominators."""
    match kind:
        case "zeros":
            weights = [random.choice((0, 0, 1, 2, 3)) for _ in range(vocabulary)]
        case "ties" | "equal":
            weights = [random.choice((1, 1, 2)) for _ in range(vocabulary)]
        case "disjoint":  # p on tokens of one parity, q on the other; which one turns with the length
            mine = (len(context) + (model == "p")) % 2
            weights = [random.randint(1, 2) if token % 2 == mine else 0 for token in range(vocabulary)]
        case _:
            weights = [0] * vocabulary
    if not any(weights):
        weights[random.randrange(vocabulary)] = 1
    total = sum(weights)
    return tuple(Fraction(weight, total) for weight in weights)


def prove(strategy: DecodingStrategy, verification: str | Rule = "token", pairs: int = 200, seed: int = 0) -> Proof:
    """Compare the exact law of `strategy` with the target's on generated pairs; stops at the first that differs."""
    if pairs < 1:
        raise InputError(f"{pairs} pairs prove nothing: ask for at least 1")
    name = verification if isinstance(verification, str) else verification.__name__
    start = time.perf_counter()
    number = 0
    for number, case in enumerate(cases(pairs, seed), start=1):
        ours = case.law(strategy, verification)
        if ours != case.target_law:
            text = counterexample(strategy, verification, case)
            distance = total_variation(ours, case.target_law)
            return Proof(strategy, name, number, distance, time.perf_counter() - start, text)
    return Proof(strategy, name, number, Fraction(0), time.perf_counter() - start)


def assert_lossless(
    strategy: DecodingStrategy, verification: str | Rule | None = None, pairs: int = 200, seed: int = 0
) -> list[Proof]:
    """Raise `NotLossless`, with a smallest counterexample, unless the law is the target's on every generated pair.

    All rules of `specdec.verification` are tried unless one is named. Returns the proofs.
    """
    proofs = [prove(strategy, rule, pairs, seed) for rule in ([verification] if verification else RULES)]
    for proof in proofs:
        if proof.counterexample:
            raise NotLossless(proof.counterexample)
    return proofs


def counterexample(strategy: DecodingStrategy, verification: str | Rule, case: Case) -> str:
    """The case with its rows made as simple as they can be while the laws still differ, as text."""
    case = simplified(strategy, verification, case)
    ours, targets = case.law(strategy, verification), case.target_law
    output = max({*ours, *targets}, key=lambda tokens: abs(ours.get(tokens, 0) - targets.get(tokens, 0)))
    rule = verification if isinstance(verification, str) else verification.__name__
    zero = Fraction(0)
    lines = [
        f"{strategy} with the {rule} rule is not lossless: after prompt {PROMPT} it outputs {output} with probability "
        f"{ours.get(output, zero)}, the target with {targets.get(output, zero)} "
        f"(total variation {float(total_variation(ours, targets)):.4g})",
        f"vocabulary {case.vocabulary}, {case.new_tokens} new tokens, end of sequence {case.eos}; history: p | q",
    ]
    for context in sorted({*case.p.rows, *case.q.rows}, key=lambda context: (len(context), context)):
        p, q = (table.rows.get(context) for table in (case.p, case.q))
        lines.append(f"  {context}: {_written(p)} | {_written(q)}")
    return "\n".join(lines)


def simplified(strategy: DecodingStrategy, verification: str | Rule, case: Case) -> Case:
    """Replace rows by one-hot or uniform ones, shortest history first, as long as the laws still differ."""
    v = case.vocabulary
    uniform = tuple(Fraction(1, v) for _ in range(v))
    one_hot = [tuple(Fraction(int(token == hot)) for token in range(v)) for hot in range(v)]
    fixed: dict[str, dict[Tokens, ExactRow]] = {"p": {}, "q": {}}

    def with_rows() -> Case:
        p, q = (
            Table(lambda context, rows=fixed[model], table=table: rows.get(context) or table(context))
            for model, table in (("p", case.p), ("q", case.q))
        )
        return replace(case, p=p, q=q)

    contexts = sorted({*case.p.rows, *case.q.rows}, key=lambda context: (len(context), context))
    for context in contexts[:64]:
        for model in "pq":
            for row in (*one_hot, uniform):
                fixed[model][context] = row
                if _differs(strategy, verification, with_rows()):
                    break
                del fixed[model][context]
    smallest = with_rows()
    _differs(strategy, verification, smallest)  # so that its tables hold just the rows that are used
    return smallest


def _differs(strategy: DecodingStrategy, verification: str | Rule, case: Case) -> bool:
    try:
        return case.law(strategy, verification) != case.target_law
    except NotLossless:
        return False  # another fault than the one being simplified


def _written(row: ExactRow | None) -> str:
    return "not used" if row is None else "(" + ", ".join(str(weight) for weight in row) + ")"
