"""Speed without text: forced acceptance has the law it names and marks what comes of it; shapes have the sizes they name."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import minuscule
from transformers import LlamaConfig, LlamaForCausalLM

from specdec import Decoding, InputError, Pair, PairError, Statistics, assert_lossless, available, create, decode
from specdec.acceptance import MeasuredAcceptance
from specdec.bench import bench
from specdec.bench.chart import speedup_chart
from specdec.law import Oracle, branches
from specdec.measure import profile
from specdec.shapes import SHAPES, build
from specdec.synthetic import Synthetic, rule_of, synthetic
from specdec.testing.models import byte_tokenizer, resembling
from specdec.verification import Decision, rules

MARK = "synthetic acceptance 0.8: not text"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair.load("shape:tiny-target", "shape:tiny-draft", device="cpu", dtype="float32", lane="inline") as made:
        yield made


def forced(verification: str) -> Synthetic:
    rule = synthetic(verification)
    assert rule is not None
    return rule


def profile_with(run_lengths: Mapping[str, int]) -> str:
    """A profile that holds nothing else."""
    return json.dumps({"target_seconds": [], "draft_seconds": [], "acceptance": {"run_lengths": run_lengths}})


def recorded(folder: Path, run_lengths: dict[str, int]) -> str:
    """A verification that names a profile with these run lengths."""
    (folder / "profile.json").write_text(profile_with(run_lengths))
    return f"synthetic:{folder / 'profile.json'}"


# --- the law of what is accepted


class Certain:
    """A window of `n` guesses whose row `i` puts all its mass on token `i`. It has no `q`, and no guess: nobody may ask."""

    def __init__(self, n: int) -> None:
        self.n = n

    def p(self, i: int) -> Any:
        return torch.eye(self.n + 1)[i]


Ask = Callable[[Synthetic, int, bool, Any], Decision]
ASKS: dict[str, Ask] = {
    "sampled": lambda rule, n, bonus, chance: rule(Certain(n), bonus, chance),  # type: ignore[arg-type]
    "greedy": lambda rule, n, bonus, chance: rule.greedy(range(n + 1), [-1] * n, bonus, chance),
}


def law_of(run: Callable[[Oracle], Any]) -> dict[Any, float]:
    law: dict[Any, float] = {}
    for outcome, weight in branches(run):
        law[outcome] = law.get(outcome, 0.0) + float(weight)
    return law


@pytest.mark.parametrize("bonus", [False, True], ids=["", "bonus"])
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_rate_accepts_each_guess_alike_and_then_takes_the_targets_token(ask: Ask, bonus: bool) -> None:
    law = law_of(lambda oracle: ask(forced("synthetic:0.8"), 2, bonus, oracle))
    last = Decision(2, 2 if bonus else None)
    assert law == pytest.approx({Decision(0, 0): 0.2, Decision(1, 1): 0.16, last: 0.64})


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize(("bonus", "windows"), [(False, [1, 2, 1, 3, 2]), (True, [2, 1, 1, 2])], ids=["", "bonus"])
def test_recorded_runs_go_on_across_windows(tmp_path: Path, ask: Ask, bonus: bool, windows: Sequence[int]) -> None:
    """What windows accept is what they would of a text whose bits are runs drawn from the recording, one after another."""
    verification = recorded(tmp_path, {"0": 1, "1": 2, "3": 5})
    positions = sum(windows) + len(windows)

    def decoded(oracle: Oracle) -> tuple[int, ...]:
        rule = forced(verification)
        return tuple(ask(rule, n, bonus, NoPick(oracle)).accepted for n in windows)

    def of_text(oracle: Oracle) -> tuple[int, ...]:
        bits: list[int] = []
        while len(bits) < positions:
            bits += [1] * (0, 1, 3)[oracle.choose((1 / 8, 2 / 8, 5 / 8))] + [0]
        position, accepted = 0, []
        for n in windows:
            run = bits[position:].index(0) if 0 in bits[position:] else positions
            accepted.append(min(run, n))
            position += accepted[-1] + (bonus or run < n)
        return tuple(accepted)

    assert law_of(decoded) == pytest.approx(law_of(of_text))
    assert forced(verification).rate == pytest.approx((2 * 1 + 5 * 3) / (2 * 1 + 5 * 3 + 8))


class NoPick:
    """An oracle for the trials only: which token is taken does not matter."""

    def __init__(self, oracle: Oracle) -> None:
        self.leading = oracle.leading
        self.pick = lambda weights: 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
# What a fork foresees is a matter of real tokens, and `adaptive` may find that such small models are faster without a draft.
@pytest.mark.parametrize("name", sorted(available().keys() - {"hedged", "adaptive"}))
def test_every_strategy_decodes_with_the_acceptance_it_is_given(pair: Pair, name: str, temperature: float) -> None:
    """Twice the same token all along the prompt, so that a look-up finds something; the two models agree by accident only."""
    strategy, prompt = create(name), [7] * 16

    def statistics(rate: float) -> Statistics:
        options: dict[str, Any] = {"max_new_tokens": 64, "temperature": temperature, "seed": 1}
        return decode(pair, strategy, prompt, verification=f"synthetic:{rate}", **options).statistics

    none, every = statistics(0), statistics(1)
    assert none.rounds == 64
    assert none.accepted_tokens == 0
    assert (every.accepted_tokens > 16) == (name != "autoregressive")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_rate_is_met_on_real_forwards(pair: Pair, temperature: float) -> None:
    options: dict[str, Any] = {"max_new_tokens": 800, "temperature": temperature, "seed": 1}
    counted = decode(pair, create("speculative", draft_length=1), [1], verification="synthetic:0.8", **options).statistics
    assert counted.draft_acceptance_rate == pytest.approx(0.8, abs=0.06)  # 3.2 standard deviations over 440 rounds


def test_decodes_side_by_side_have_runs_of_their_own(pair: Pair, tmp_path: Path) -> None:
    """A run that is half done in one decode is no business of another."""
    options: dict[str, Any] = {"verification": recorded(tmp_path, {"0": 1, "7": 1}), "max_new_tokens": 60, "temperature": 0}
    strategy, prompts = create("speculative", draft_length=3), [[1, 2], [3], [4, 5]]
    alone = [decode(pair, strategy, prompt, seed=7 + i, **options) for i, prompt in enumerate(prompts)]
    together = decode(pair, strategy, prompts, batch_size=2, seed=7, **options)
    histograms = [result.statistics.accepted_in_round for result in together]
    assert histograms == [result.statistics.accepted_in_round for result in alone]
    assert len({tuple(sorted(counts.items())) for counts in histograms}) > 1


# --- nothing of it is text


def test_no_text_comes_of_it() -> None:
    words = [chr(byte) for byte in range(48, 112)]
    target = minuscule(len(words), seed=3)
    readable = Pair(target, resembling(target), byte_tokenizer(words), lane="inline")
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1, "seed": 0}
    assert len(decode(readable, create("pearl", draft_length=2), "AB", **options).text) == 12
    steps = Decoding(readable, create("pearl", draft_length=2), "AB", verification="synthetic:0.8", **options)
    assert {step.text for step in steps} == {""}
    assert steps.result().text == ""
    assert len(steps.result().tokens) == 12
    with pytest.raises(InputError, match="not synthetic"):
        decode(readable, create("pearl"), "AB", verification="synthetic:0.8", stop_strings=["A"])


def test_a_model_does_not_generate_with_it(pair: Pair) -> None:
    target: Any = pair.target
    ask = {"custom_generate": create("speculative", draft_length=2), "draft": pair, "max_new_tokens": 4}
    with pytest.raises(InputError, match="no text to show"):
        target.generate(torch.tensor([[1, 2]]), verification="synthetic:0.8", **ask)


def test_it_is_no_rule_that_could_be_proved() -> None:
    assert not any("synthetic" in name or isinstance(rule, Synthetic) for name, rule in rules().items())
    with pytest.raises(InputError, match=r"unknown verification 'synthetic:0\.8'"):
        assert_lossless(create("speculative", draft_length=1), "synthetic:0.8", pairs=1)


def test_statistics_say_it_once_however_many_are_added(pair: Pair) -> None:
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1, "seed": 0}
    marked = [decode(pair, create("pearl", draft_length=2), [1], verification="synthetic:0.8", **options) for _ in range(2)]
    plain = decode(pair, create("pearl", draft_length=2), [1], **options)
    assert plain.statistics.synthetic == ""
    assert reduce(add, (result.statistics for result in (plain, *marked))).synthetic == MARK


def test_a_benchmark_says_it_everywhere_and_neither_compares_nor_measures_acceptance(pair: Pair) -> None:
    lined_up = [create("autoregressive"), create("speculative", draft_length=2)]
    found = bench(pair, lined_up, [[1, 2, 3]], max_new_tokens=8, repeats=1, verification="synthetic:0.8")
    assert found.settings.synthetic == MARK
    assert [result.synthetic for result in found.results] == [MARK] * 4
    assert found.greedy_check is None
    assert found.measured is not None
    assert found.measured.acceptance_rate_by_temperature == {"0": 0.8, "1": 0.8}
    assert MARK in json.dumps(speedup_chart(found).to_dict())
    assert all((result.predicted_tokens_per_second or 0) > 0 for result in found.results)  # at the rate that is forced


# --- what is refused


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1.5", "1.5 is no probability"),
        ("-0.1", "-0.1 is no probability"),
        ("nan", "nan is no probability"),
        ("absent.json", "No such file"),
        ("{tmp}/text", "is no JSON"),
        ("{tmp}/list", "holds no JSON object"),
        ("{tmp}/other", "target_seconds is missing"),
        ("{tmp}/empty", "no run"),
        ("{tmp}/negative", "negative number"),
    ],
)
def test_sources_that_name_no_acceptance_are_refused(tmp_path: Path, source: str, reason: str) -> None:
    contents = {
        "text": "0.8 or so",
        "list": "[1, 2]",
        "other": "{}",
        "empty": profile_with({}),
        "negative": profile_with({"1": 3, "-2": 1}),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{reason}.*give a number from 0 to 1"):
        rule_of(f"synthetic:{source.format(tmp=tmp_path)}")


# --- shapes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-8b", 8_030_261_248),  # as published
        ("llama-1b", 1_235_814_400),  # as published
        ("llama-160m", 164_572_416),
        ("llama-68m", 67_896_832),
        # embedding, head and last norm, and 20 layers: queries and outputs, keys and values, three of the MLP, two norms
        ("llama-70b-20-of-80-layers", 2 * 128256 * 8192 + 8192 + 20 * (8192 * (2 * 8192 + 2 * 1024 + 3 * 28672) + 2 * 8192)),
    ],
)
def test_shapes_have_the_parameters_their_names_say(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert LlamaForCausalLM(LlamaConfig(**SHAPES[name])).num_parameters() == parameters


def test_a_shape_is_made_in_the_format_asked_for_always_alike_and_touches_no_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build("shape:tiny-draft", "cpu", "float32")
    assert torch.equal(torch.rand(3), expected)
    again = build("shape:tiny-draft", "cpu", torch.float32)
    assert first.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert build("shape:tiny-draft", "cpu", "bfloat16").dtype == torch.bfloat16
    assert build("shape:tiny-draft", "meta", "float32").device.type == "meta"  # made there, not moved there


def test_a_pair_of_shapes_has_names_and_no_tokenizer_and_never_ends_by_itself(pair: Pair) -> None:
    assert (pair.target.name_or_path, pair.tokenizer, pair.context_limit) == ("shape:tiny-target", None, 8192)
    assert not pair.eos
    with pytest.raises(InputError, match="no tokenizer: give the prompt as token ids"):
        decode(pair, create("pearl"), "text")


def test_unknown_shapes_and_absent_devices_are_refused() -> None:
    with pytest.raises(PairError, match="unknown shape 'llama-8': did you mean llama-8b"):
        Pair.load("shape:llama-8")
    with pytest.raises(PairError, match="device nowhere cannot be used"):
        Pair.load("shape:tiny-target", device="nowhere")


def test_a_profile_of_shapes_has_times_and_no_acceptance(pair: Pair) -> None:
    found = profile(pair, {}, widths=(1, 2), batches=(1,), contexts=(16,), repeats=2)
    assert found.acceptance == MeasuredAcceptance()
    assert {timing.width for timing in found.target_seconds} >= {1, 2}


# --- the script for a GPU, on tiny shapes

GPU = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/gpu.py"))


def test_the_gpu_script_in_a_dry_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert GPU["main"](["--dry-run", "--output", str(tmp_path), "--prompt-tokens", "10"]) == 0
    shown = capfd.readouterr().out
    assert MARK in shown
    assert "Autoregressive decoding at temperature 0 reads" in shown
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found.keys() == {"gpu", "driver", "cuda", "date", "copy_bytes_per_second", "pairs"}
    (measured,) = found["pairs"]
    names = [row["strategy"] for row in measured["results"]]
    assert {"autoregressive", "speculative", "pearl"} <= {*names}
    assert measured["pair"]["dtype"] == "bfloat16"
    assert measured["why_eager"].keys() == {"target", "draft"}
    assert "eager, since" not in shown
    layer = 64 * (64 + 64 + 2 * 32 + 3 * 128) + 2 * 64  # queries and outputs, keys and values, MLP, two norms
    read = 2 * layer + 64 + 512 * 64 + 64  # the last norm, the head, and one row of the embedding
    kept = 2 * 2 * 32  # keys and values of a position in two layers
    assert measured["bytes_read_per_token"] == 2 * (read + kept * (10 + 16 / 2))
    plain = measured["results"][names.index("autoregressive")]
    assert plain["bytes_per_second"] == measured["bytes_read_per_token"] * plain["tokens_per_second"]
    assert plain["share_of_copy"] == plain["bytes_per_second"] / found["copy_bytes_per_second"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no GPU is here"),
        (["--dry-run", "--output", "absent/folder"], "cannot write JSON"),
        (["--dry-run", "--acceptance", "2"], "synthetic acceptance 2 is no probability"),
        (["--dry-run", "--draft-lengths", "0"], "draft length '0' is not possible"),
    ],
)
def test_the_gpu_script_says_in_one_line_what_is_wrong(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert GPU["main"](arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
