"""Who decodes what in which order, and what is left of a benchmark that ends early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from small_benchmarks import TEXTS, finished, reported, small, strategies
from tiny_models import minuscule

from specdec import DecodingStrategy, InputError, Pair, create
from specdec.bench import BASELINE, BenchReport, Contender, Ours, bench, hugging_face, line_up, report_of
from specdec.bench.greedy import greedy_check
from specdec.decoding import decode
from specdec.output import Result


def test_every_cell_has_every_contender_in_turn_on_the_same_prompt_and_seed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def recorded(pair: Pair, strategy: DecodingStrategy, prompt: Any, **options: Any) -> Result:
        asked.append(
            (Contender(Ours(strategy), options["temperature"]), tuple(prompt), options["seed"], options["max_new_tokens"])
        )
        return decode(pair, strategy, prompt, **options)

    monkeypatch.setattr("specdec.bench.run.decode", recorded)
    benchmark = finished(small(pair))
    n = len(benchmark.contenders)
    warm_up, prompts = asked[:n], [asked[i : i + n] for i in range(n, len(asked), n)]
    assert len(asked) + 1 == len(benchmark)
    assert {contender for contender, *_ in warm_up} == {*benchmark.contenders}
    assert len(prompts) == 2 * len(TEXTS)
    for decoded in prompts:
        assert {contender for contender, *_ in decoded} == {*benchmark.contenders}
        assert len({rest for _, *rest in ((c, p, s, m) for c, p, s, m in decoded) for rest in [tuple(rest)]}) == 1
    assert [decoded[0][1] for decoded in prompts] == [tuple(text) for text in TEXTS] * 2
    assert len({decoded[0][2] for decoded in prompts}) == len(prompts)  # no two of them draw the same random numbers
    assert all(a[0][0] != b[0][0] for a, b in pairwise(prompts))  # nobody always begins


def test_contenders_of_the_default_line_up(pair: Pair) -> None:
    fast = SimpleNamespace(draft=pair.draft, speed_ratio=lambda: 6.2)
    lengths = lengths_by_name(line_up(fast))  # type: ignore[arg-type]
    assert lengths[BASELINE] == [None]
    assert lengths["speculative"] == [1, 2, 3, 4, 6]
    assert lengths["pearl"] == ["auto", 3, 5, 7]
    assert lengths["prompt_lookup"] == [8]
    slow = SimpleNamespace(draft=pair.draft, speed_ratio=lambda: 0.9)
    assert lengths_by_name(line_up(slow))["pearl"] == ["auto", 2]  # type: ignore[arg-type]


def lengths_by_name(lined_up: list[DecodingStrategy]) -> dict[str, list[Any]]:
    names = dict.fromkeys(strategy.name for strategy in lined_up)
    return {name: [s.parameters.get("draft_length") for s in lined_up if s.name == name] for name in names}


def test_chosen_contenders(pair: Pair) -> None:
    full = lengths_by_name(line_up(pair, full=True))
    assert full["speculative"] == [*range(1, 9)]
    assert full["pearl"] == ["auto", *range(1, 9)]
    chosen = lengths_by_name(line_up(pair, ["pearl"], [2, 5]))
    assert chosen == {BASELINE: [None], "pearl": ["auto", 2, 5]}


def test_two_names_of_one_program_are_measured_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pair._speed_ratios, False, 5.2)
    lined_up = line_up(pair, ["pearl"], [2, 5])
    measured = small(pair, strategies=[*lined_up, create("pearl", draft_length=5)], temperatures=(0.0,))
    rows = [(contender.decoder.parameters.get("draft_length"), contender.decoder) for contender in measured.contenders]
    assert [length for length, _ in rows] == [None, 5, 2]
    assert [isinstance(decoder, Ours) and decoder.automatic for _, decoder in rows] == [False, True, False]
    results = report_of(finished(measured)).results
    assert [result.length for result in results] == ["-", "auto=5", "2"]
    assert [result.parameters.get("draft_length") for result in results] == [None, 5, 2]  # to be given back


def test_without_a_draft_only_what_needs_none_is_measured(pair: Pair) -> None:
    alone = Pair(pair.target)
    assert {*lengths_by_name(line_up(alone))}.isdisjoint({"pearl", "speculative"})
    found = reported(alone, strategies=line_up(alone, ["prompt_lookup"]), temperatures=(0.0,))
    assert found.measured is not None
    assert found.measured.draft_step_seconds is None
    assert found.settings.draft_lane is None
    assert found.pair.draft is None
    assert [result.strategy for result in found.results] == [BASELINE, "prompt_lookup"]


def test_the_baseline_is_measured_whether_it_is_named_or_not(pair: Pair) -> None:
    benchmark = small(pair, strategies=[create("pearl", draft_length=2)])
    assert [contender.decoder.name for contender in benchmark.contenders] == [BASELINE, "pearl"] * 2
    assert len(small(pair, strategies=[create(BASELINE)]).contenders) == 2


def test_a_time_limit_cuts_the_first_repeat_short(pair: Pair) -> None:
    done = reported(pair, seconds=0)
    assert (done.settings.repeats, done.settings.prompts) == (1, 1)
    assert all(result.new_tokens == 6 for result in done.results)


@pytest.mark.parametrize(
    ("decodes", "shape"),
    [(6, (0, 0)), (6 + 3, (0, 0)), (6 + 6 + 2, (1, 1)), (6 + 6 * 3 + 1, (1, 3)), (6 + 6 * 5 + 5, (1, 3))],
)
def test_an_interrupt_leaves_prompts_that_all_decoded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, decodes: int, shape: tuple[int, int]
) -> None:
    """Six contenders: a warm-up of six decodes, then six for each prompt, three prompts for each repeat."""
    count = 0

    def until(*arguments: Any, **options: Any) -> Result:
        nonlocal count
        count += 1
        if count > decodes:
            raise KeyboardInterrupt
        return decode(*arguments, **options)

    monkeypatch.setattr("specdec.bench.run.decode", until)
    done = bench(pair, strategies(), TEXTS, max_new_tokens=6, repeats=2)
    assert done.settings.interrupted
    assert (done.settings.repeats, done.settings.prompts) == shape
    assert all(result.new_tokens == 6 * shape[0] * shape[1] for result in done.results)
    assert len(done.results) == (6 if shape[0] else 0)
    assert ("Nothing was measured to the end" in str(done)) == (shape[0] == 0)


def test_an_interrupt_before_the_pair_is_measured_is_reported_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specdec.bench.run.measured", interrupted)
    done = bench(pair, strategies(), TEXTS)
    assert done.measured is None
    assert "nothing yet" in str(done)
    assert BenchReport.from_dict(done.to_dict(), "the report") == done


def test_progress_sees_every_step(pair: Pair) -> None:
    seen: list[str] = []

    def progress(steps: Iterable[str], total: int) -> Iterator[str]:
        for step in steps:
            seen.append(step)
            yield step
        assert len(seen) == total

    bench(pair, strategies()[:1], TEXTS, temperatures=(0.0,), max_new_tokens=2, repeats=1, progress=progress)
    assert seen[:2] == ["measuring the models", "warming up autoregressive"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats 0 is not possible"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 is not possible"),
        ({"texts": []}, "prompts 0 is not possible"),
        ({"verification": "trust"}, "trust"),
        ({"temperatures": (-1.0,)}, "temperature -1.0"),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_refused_at_once(pair: Pair, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(pair, **options)


def test_a_prompt_over_the_context_is_named(pair: Pair) -> None:
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=16))
    with pytest.raises(InputError, match="prompt 2 has 16 tokens and the context holds 16"):
        small(limited, texts=[[1], [2] * 16])
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=32), limited.target, lane="inline")
    with pytest.raises(InputError, match="prompt 1 has 20 tokens and the context holds 16"):
        small(limited, texts=[[2] * 20], peers=hugging_face(limited))


def test_a_peer_with_less_room_is_compared_as_far_as_it_goes() -> None:
    drafting = minuscule(64, seed=3, max_position_embeddings=24)
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=48), drafting, lane="inline")
    benchmark = small(limited, texts=[[1, 2, 3]], peers=hugging_face(limited)[:2], temperatures=(0.0,), max_new_tokens=32)
    for _ in benchmark:
        pass
    assert greedy_check(benchmark).equal
