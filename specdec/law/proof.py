"""Compares the exact law of a strategy with the target's on many generated pairs, and finds a smallest counterexample.

    assert_lossless(MyStrategy())      in a test: raises `NotLossless`, or returns the proofs

A proof is exact on each of its pairs: for outputs of 1 to 4 tokens, and for outputs of up to 24 in which 4 positions are open
(`specdec.law.long`). Beyond, outputs of 64 tokens are sampled (`specdec.law.sampled`), which shows coarse faults only. It is no
proof for all models: the pairs are a sample, and a fault that shows only in longer outputs is not seen.

Pairs for short outputs have 2 to 4 tokens, and rows that depend on the whole history. Each kind of pair shows some wrong rule:
rows with zeros, with ties, p = q, disjoint supports, one-hot rows, mixtures of all, each with and without an end-of-sequence
token. With 3 or 4 tokens, rows are one-hot after the end of the output: most of the work would be there, and a rule that looks
too far ahead shows within longer outputs, or with 2 tokens.

There are many pairs, since a wrong rule may be right on one. Laws are fractions, since a wrong rule may change the law by less
than any affordable sample shows. Each pair has its own schedule for drafts that race the target; half of the schedules depend
on the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from itertools import chain, cycle, islice
from random import Random
from typing import Any

from specdec.errors import NotLossless
from specdec.inputs import at_least_one
from specdec.law.exact import law
from specdec.law.long import NEW_TOKENS, PAIRS, long_pairs
from specdec.law.pair import (
    ExactLaw,
    ExactPair,
    ExactRow,
    Hits,
    Scattered,
    ScatteredHits,
    Schedule,
    Tokens,
    target_law,
    total_variation,
)
from specdec.law.sampled import FEWEST, TOKENS, sample
from specdec.report import Report, spelled
from specdec.strategy import DecodingStrategy
from specdec.verification import Rule, is_lossless, name_of, rules

PROMPT: Tokens = (0,)

KINDS = ("zeros", "ties", "equal", "disjoint", "one-hot", "mixed")

SIZES = [(2, 1), (3, 1), (2, 2), (4, 1), (2, 3), (3, 2), (4, 2), (2, 4), (3, 3), (4, 3), (3, 4)]
"""(vocabulary, new tokens) of the generated pairs, small ones first, so that the first failure is a small one."""

SHARES = [12, 24, 18, 12, 42, 30, 6, 36, 12, 3, 5]
"""How many of 200 pairs have each size."""


class TabledModel:
    """One model: a row for every history, made when it is first asked for, and then kept in `rows`."""

    def __init__(self, row: Callable[[Tokens], ExactRow]) -> None:
        self.rows: dict[Tokens, ExactRow] = {}
        self._row = row

    def __call__(self, context: Tokens) -> ExactRow:
        if context not in self.rows:
            self.rows[context] = self._row(context)
        return self.rows[context]


@dataclass(frozen=True)
class Case:
    """A generated pair, and how to decode with it.

    `p`, `q`        target and draft
    `vocabulary`    number of tokens
    `new_tokens`    most tokens of an output
    `eos`           the end-of-sequence token, if there is one
    `kind`          kind of its rows, of `KINDS`
    `speed_ratio`   target step / draft step, which `draft_length="auto"` asks for
    `schedule`      ends the drafts of races
    `hits`          which outcomes a `Fork` foresees; `None`: the likeliest
    """

    p: TabledModel
    q: TabledModel
    vocabulary: int
    new_tokens: int
    eos: int | None
    kind: str
    speed_ratio: float
    schedule: Schedule
    hits: Hits | None = None

    @property
    def pair(self) -> ExactPair:
        return ExactPair(self.vocabulary, self.p, self.q, self.eos)

    @cached_property
    def target_law(self) -> ExactLaw:
        return target_law(self.pair, PROMPT, self.new_tokens)

    def law(self, strategy: DecodingStrategy, verification: str | Rule) -> ExactLaw:
        """The strategy's law."""
        return law(strategy, self.pair, PROMPT, self.new_tokens, verification, self.speed_ratio, self.schedule, self.hits)


@dataclass(frozen=True)
class Proof(Report):
    """The exact law of one strategy under one rule, compared with the target's on generated pairs.

    `strategy`              its name
    `parameters`            its parameters by name
    `verification`          name of the rule
    `lossless_claimed`      whether the strategy and the rule claim to be lossless
    `pairs`                 how many pairs were tried for outputs of up to 4 tokens: all, or those up to the first on which the
                            laws differ though they are claimed to be equal
    `max_total_variation`   the largest distance between the two laws; `None` if the law could not be computed
    `exact`                 whether the laws were equal, as fractions, on every pair
    `seconds`               seconds it took
    `counterexample`        the smallest case found on which they differ, or the error of the strategy
    `long_pairs`            how many pairs were tried for longer outputs, with few open positions
    `new_tokens`            most tokens of an output that was enumerated: the horizon
    `sampled_tokens`        tokens in still longer outputs, which were sampled; 0 where the law was refuted before
    `sampled_deviation`     largest difference of a count among them from its expectation, in standard errors; 6 refutes
    `mean_total_variation`  mean distance over all pairs, where no claim is made: how lossy it is; else `None`
    """

    strategy: str
    parameters: dict[str, Any]
    verification: str
    lossless_claimed: bool
    pairs: int
    max_total_variation: float | None
    exact: bool
    seconds: float
    counterexample: str | None = None
    long_pairs: int = 0
    new_tokens: int = 0
    sampled_tokens: int = 0
    sampled_deviation: float = 0.0
    mean_total_variation: float | None = None

    @property
    def refuted(self) -> bool:
        """Whether it is claimed to be lossless and is not."""
        return self.lossless_claimed and not self.exact

    def __str__(self) -> str:
        return f"{spelled(self.strategy, self.parameters)}, {self.verification} rule"


@lru_cache(maxsize=4)
def cases(count: int = 200, seed: int = 0) -> tuple[Case, ...]:
    """`count` generated pairs, small ones first, every kind in every size."""
    return tuple(_cases(count, seed))


def sizes_of(count: int) -> list[tuple[int, int]]:
    """(vocabulary, new tokens) of so many generated pairs."""
    sizes = [size for size, share in zip(SIZES, SHARES, strict=True) for _ in range(max(1, round(share * count / 200)))]
    return sorted(islice(cycle(sizes), count), key=SIZES.index)


def _cases(count: int, seed: int) -> Iterator[Case]:
    kinds = cycle(KINDS)
    for number, (vocabulary, new_tokens) in enumerate(sizes_of(count)):
        eos = vocabulary - 1 if number // len(KINDS) % 2 else None
        name = f"{seed} {number}"
        schedule = Scattered(name, by_tokens=number // 4 % 2 == 1)
        case = generated_case(vocabulary, new_tokens, eos, next(kinds), name, 1.0 + number % 4, schedule)
        yield replace(case, hits=ScatteredHits(name) if number // 8 % 2 else None)


@lru_cache(maxsize=4)
def long_cases(count: int = PAIRS, seed: int = 0, new_tokens: int = NEW_TOKENS) -> tuple[Case, ...]:
    """`count` pairs for outputs of up to `new_tokens` tokens with few open positions."""
    found: list[Case] = []
    for number, (pair, length) in enumerate(long_pairs(count, seed, len(PROMPT), new_tokens)):
        p, q = (TabledModel(partial(pair.row, model)) for model in "pq")
        schedule = Scattered(pair.name, by_tokens=number % 2 == 1)
        hits = ScatteredHits(pair.name) if number // 2 % 2 else None
        found.append(Case(p, q, pair.vocabulary, length, pair.eos, "long", 1.0 + number % 4, schedule, hits))
    return tuple(found)


def generated_case(
    vocabulary: int, new_tokens: int, eos: int | None, kind: str, name: str, speed_ratio: float, schedule: Schedule
) -> Case:
    """A pair of `kind` whose rows depend on `name` and on the whole history."""

    def row(model: str, context: Tokens) -> ExactRow:
        random = Random(f"{name} {context}")
        ended = len(context) >= len(PROMPT) + new_tokens
        of_kind = "one-hot" if ended and vocabulary > 2 else random.choice(KINDS[:-1]) if kind == "mixed" else kind
        if of_kind != "equal":
            random = Random(f"{name} {model} {context}")
        return generated_row(random, of_kind, model, context, vocabulary)

    p, q = (TabledModel(lambda context, model=model: row(model, context)) for model in "pq")
    return Case(p, q, vocabulary, new_tokens, eos, kind, speed_ratio, schedule)


def generated_row(random: Random, kind: str, model: str, context: Tokens, vocabulary: int) -> ExactRow:
    """One row of fractions with small denominators."""
    match kind:
        case "zeros":
            weights = [random.choice((0, 0, 1, 2, 3)) for _ in range(vocabulary)]
        case "ties" | "equal":
            weights = [random.choice((1, 1, 2)) for _ in range(vocabulary)]
        case "disjoint":  # p on tokens of one parity, q on the other; the two swap with each token
            mine = (len(context) + (model == "p")) % 2
            weights = [random.randint(1, 2) if token % 2 == mine else 0 for token in range(vocabulary)]
        case _:
            weights = [0] * vocabulary
    if not any(weights):
        weights[random.randrange(vocabulary)] = 1
    total = sum(weights)
    return tuple(Fraction(weight, total) for weight in weights)


def prove(
    strategy: DecodingStrategy,
    verification: str | Rule = "token",
    pairs: int = 200,
    seed: int = 0,
    new_tokens: int = NEW_TOKENS,
) -> Proof:
    """Compare the exact law of `strategy` with the target's on generated pairs. Stops at the first on which they differ.

    `verification` is a rule or its name; another `seed` gives other pairs. `new_tokens` is the horizon: the length of the
    longest outputs that are enumerated. If the law cannot be computed, the error is raised: `StrategyError`, or `NotLossless`
    for a token that its row `q` makes impossible.
    """
    at_least_one(pairs=pairs, new_tokens=new_tokens)
    start = time.perf_counter()
    tried, distance, text, horizon, sampled = [0, 0], Fraction(0), None, 0, None
    long = -(-pairs * PAIRS // 200)
    for case in chain(cases(pairs, seed), long_cases(long, seed, new_tokens)):
        tried[case.kind == "long"] += 1
        horizon = max(horizon, case.new_tokens)
        ours = case.law(strategy, verification)
        if ours != case.target_law:
            distance, text = total_variation(ours, case.target_law), counterexample(strategy, verification, case)
            break
    else:
        sampled = sample(strategy, verification, max(FEWEST, TOKENS * pairs // 200), seed)
        if sampled.refutes:
            text = f"{strategy} with the {name_of(verification)} rule is not lossless: {sampled}"
    return Proof(
        strategy.name,
        strategy.parameters,
        name_of(verification),
        strategy.lossless and is_lossless(verification),
        tried[False],
        float(distance),
        text is None,
        time.perf_counter() - start,
        text,
        tried[True],
        horizon,
        sampled.tokens if sampled else 0,
        sampled.deviation if sampled else 0.0,
    )


def assert_lossless(
    strategy: DecodingStrategy,
    verification: str | Rule | None = None,
    pairs: int = 200,
    seed: int = 0,
    new_tokens: int = NEW_TOKENS,
) -> list[Proof]:
    """Raise `NotLossless`, with a smallest counterexample, unless the law is the target's on every generated pair.

    `verification` is a rule or its name; every installed rule that claims to be lossless is tried unless it is given. Another
    `seed` gives other pairs. `new_tokens` is the longest output that is enumerated. Returns the proofs. Use small draft
    lengths: the work grows with the power of the length.
    """
    proofs: list[Proof] = []
    for rule in rules() if verification is None else [verification]:
        proofs.append(prove(strategy, rule, pairs, seed, new_tokens))
        if fault := proofs[-1].counterexample:
            raise NotLossless(fault)
    return proofs


def counterexample(strategy: DecodingStrategy, verification: str | Rule, case: Case) -> str:
    """The case with its rows made as simple as they can be while the laws still differ, as text."""
    case = simplified(strategy, verification, case)
    ours, targets = case.law(strategy, verification), case.target_law
    output = max({*ours, *targets}, key=lambda tokens: abs(ours.get(tokens, 0) - targets.get(tokens, 0)))
    our, its = ours.get(output, Fraction(0)), targets.get(output, Fraction(0))
    lines = [
        f"{strategy} with the {name_of(verification)} rule is not lossless: after prompt {PROMPT} it outputs {output} "
        f"with probability {our}, the target with {its} (total variation {float(total_variation(ours, targets)):.4g})",
        f"vocabulary {case.vocabulary}, {case.new_tokens} new tokens, end of sequence {case.eos}; history: p | q",
    ]
    if case.kind == "long":
        lines[1] += " (rows that are certain, and the same in both, are left out)"
    for context in sorted({*case.p.rows, *case.q.rows}, key=lambda context: (len(context), context)):
        p, q = (table.rows.get(context) for table in (case.p, case.q))
        if case.kind == "long" and p is not None and max(p) == 1 and q in (p, None):
            continue
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
            TabledModel(lambda context, rows=fixed[model], table=table: rows.get(context) or table(context))
            for model, table in (("p", case.p), ("q", case.q))
        )
        return replace(case, p=p, q=q)

    asked = with_rows()
    _differs(strategy, verification, asked)  # the tables of `case` may hold rows that only other strategies have asked for
    contexts = sorted({*asked.p.rows, *asked.q.rows}, key=lambda context: (len(context), context))
    for context in contexts[:64]:
        for model in "pq" if case.kind != "long" or max(case.p(context)) < 1 else "":
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
    except Exception:
        return False  # another fault than the one being simplified, of a rule of a stranger's too


def _written(row: ExactRow | None) -> str:
    return "not used" if row is None else "(" + ", ".join(str(weight) for weight in row) + ")"
