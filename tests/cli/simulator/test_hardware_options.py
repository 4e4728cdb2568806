"""Options of models on GPUs: they stand for steps, fill the cache, are scaled to measured steps, and are refused by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sim_commands import COMMON, Run, answer, printed, refused

from sim import kv_tokens, read_model
from sim.cli.options import SystemOptions

MODELS = ("--target-config", "Qwen/Qwen3-8B", "--draft-config", "qwen3-0.6b")
TIGHT = ("--target-config", "qwen3-32b", "--draft-config", "qwen3-4b")
ON_GPU = ("simulate", "--strategy", "speculative", "--draft-length", "4", "--acceptance", "0.8", "--tokens", "50")


def speed(run: Run, *options: str) -> float:
    return answer(run, *ON_GPU, *options)["chain_tokens_per_second"]


def test_a_roofline_stands_for_steps(tmp_path: Path, run: Run) -> None:
    sizes = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
        "vocab_size": 1000,
    }
    for name, layers in (("target", 32), ("draft", 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps(sizes | {"num_hidden_layers": layers}))
    models = ("--target-config", str(tmp_path / "target.json"), "--draft-config", str(tmp_path / "draft.json"))
    speeds = [
        speed(run, "--gpu", "H200", "--target-gpus", "2", *models),
        speed(run, "--gpu", "H200", *models),
        speed(run, "--gpu", "H100", *models),
        speed(run, "--gpu", "H100", *models, "--context", "8000"),
    ]
    assert speeds == sorted(speeds, reverse=True)
    assert len(set(speeds)) == 4


def test_anchored_steps_are_those_that_were_measured(run: Run) -> None:
    steps = ("--draft-step", "2ms", "--target-step", "20ms")
    anchors = ("--anchor", "batch=1:20ms", "--anchor", "batch=1,width=5:20ms", "--anchor", "draft,batch=1:2ms")
    assert speed(run, "--gpu", "H100", *MODELS, *anchors) != speed(run, "--gpu", "H100", *MODELS)
    one = ("--anchor", "batch=5:20ms", "--anchor", "draft,batch=1:2ms")  # as many rows as the window
    assert speed(run, "--gpu", "H100", *MODELS, *one) == pytest.approx(speed(run, *steps), rel=0.01)


def test_people_are_told_how_steps_came_about(run: Run) -> None:
    fixed = ("--acceptance", "0.8", "--strategy", "speculative", "--gpu", "H100", *MODELS)
    for command in (("simulate", "--tokens", "50"), ("tune", "--tokens", "0", "--draft-lengths", "1-2"), ("timeline",)):
        assert "from a table of the hardware" in run(*command, *fixed).err
    assert "fitted: estimates, scaled to 1 measured" in run("timeline", *fixed, "--anchor", "batch=1:9ms").err
    assert run("timeline", *COMMON).err == ""


def test_the_cache_of_a_replica_is_what_fits_beside_its_models() -> None:
    target, draft = read_model("Qwen/Qwen3-8B"), read_model("qwen3-0.6b")
    two = SystemOptions(gpu="H100", target_config="Qwen/Qwen3-8B", draft_config="qwen3-0.6b")
    shared = SystemOptions(
        gpu="H100", target_config="Qwen/Qwen3-8B", draft_config="qwen3-0.6b", placement="shared", target_gpus=2
    )
    assert two.kv_tokens(drafts=True) == min(kv_tokens("H100", target), kv_tokens("H100", draft))
    assert two.kv_tokens(drafts=False) == kv_tokens("H100", target)
    assert shared.kv_tokens(drafts=True) == kv_tokens("H100", target, draft, gpus=2)
    assert shared.kv_tokens(drafts=False) == kv_tokens("H100", target, gpus=2)
    assert SystemOptions(draft_step="1ms", target_step="5ms").kv_tokens(drafts=True) is None


def test_requests_meet_the_cache_that_fits(run: Run) -> None:
    serving = ("--arrivals", "poisson:2/s", "--requests", "5", "--output-tokens", "10")
    text = printed(run, *ON_GPU, "--gpu", "H100", *MODELS, *serving)
    assert "KV cache" in text
    assert "KV cache" not in printed(
        run, *ON_GPU, "--draft-step", "1ms", "--target-step", "5ms", "--batches-are-free", *serving
    )


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--gpu", "H100", "--target-config", "qwen3-8b"), "--gpu needs both models"),
        (("--latency", "aiconfigurator:h100_sxm", "--draft-config", "qwen3-8b"), "--latency needs both models"),
        (("--gpu", "H1000", *MODELS), "did you mean H100"),
        (("--gpu", "H100", "--target-config", "qwen3-9b", "--draft-config", "qwen3-0.6b"), "did you mean qwen3-8b"),
        (("--gpu", "L40S", "--target-config", "llama-3.1-70b", "--draft-config", "llama-3.2-1b"), "give 4 GPUs"),
        (("--gpu", "H100", *TIGHT, "--placement", "shared"), "weights of 74 GB do not fit 1 H100"),
        (("--latency", "vidur:h100", *MODELS), "--latency vidur:h100 is not known"),
        (("--latency", "aiconfigurator", *MODELS), "write aiconfigurator:h100_sxm"),
        (("--gpu", "H100", *MODELS, "--latency", "aiconfigurator:h100_sxm"), "--latency has no effect with --gpu H100"),
        (("--gpu", "H100", *MODELS, "--anchor", "1:3"), "--anchor '1:3'"),
        (("--gpu", "H100", *MODELS, "--placement", "shared", "--draft-gpus", "2"), "--draft-gpus 2 is not possible"),
        (("--gpu", "H100", *MODELS, "--target-step", "5ms"), "--target-step has no effect with --gpu H100"),
        (("--draft-step", "1ms", "--target-step", "5ms", "--anchor", "batch=1:3ms"), "--anchor has no effect without --gpu"),
        (("--draft-step", "1ms", "--target-step", "5ms", "--target-gpus", "2"), "--target-gpus has no effect without --gpu"),
        (("--profile", "x.json", "--anchor", "batch=1:3ms"), "--anchor has no effect with --profile"),
        (("--profile", "x.json", "--latency", "aiconfigurator:x"), "--latency has no effect with --profile"),
        (("--profile", "x.json", "--draft-gpus", "2"), "--draft-gpus has no effect with --profile"),
    ],
)
def test_bad_and_ignored_options_are_one_line_with_the_culprit(run: Run, options: tuple[str, ...], culprit: str) -> None:
    assert culprit in refused(run, *ON_GPU, *options)


def test_every_command_sees_that_models_do_not_fit_together(run: Run) -> None:
    options = ("timeline", "--acceptance", "0.8", "--gpu", "H100", *TIGHT)
    printed(run, *options)
    assert "weights of 74 GB" in refused(run, *options, "--placement", "shared")


def test_a_missing_package_is_named_with_its_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    line = refused(run, *ON_GPU, "--latency", "aiconfigurator:h100_sxm", *MODELS)
    assert "pip install 'pearl-specdec[aiconfigurator]'" in line
