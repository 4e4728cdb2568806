"""Latency and memory from data sheets: GPUs by name, rooflines, anchors, pools, and the tables of another package."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sim import Aiconfigurator, Anchor, Anchored, ModelSize, Roofline, gpus_needed, kv_tokens, read_model
from sim.setup.gpus import GPUS, gpu_name
from sim.setup.roofline import LAUNCH_SECONDS
from specdec import InputError

PLAIN = ModelSize(8e9, 131072)
TARGET, DRAFT = read_model("Qwen/Qwen3-32B"), read_model("Qwen/Qwen3-1.7B")
PAIR = Roofline("H100", TARGET, DRAFT)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("h100", "H100"),
        ("H100 SXM", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("1x H100 96GB", "H100"),
        ("H100-PCIe", "H100 PCIe"),
        ("h100 nvl", "H100 NVL"),
        ("NVIDIA H100 NVL 94GB", "H100 NVL"),
        ("h200_sxm", "H200"),
        ("A100-SXM4-40GB", "A100 40GB"),
        ("a100 80gb", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("5090", "RTX 5090"),
        ("8 x AMD Instinct MI300X", "MI300X"),
        ("L40s", "L40S"),
    ],
)
def test_a_gpu_is_found_as_people_write_it(written: str, name: str) -> None:
    assert gpu_name(written) == name


def test_data_sheets_are_in_the_same_units() -> None:
    for gpu in GPUS.values():
        assert 100e9 < gpu.bandwidth < 10e12
        assert 100e12 < gpu.operations < 3e15
        assert 20e9 < gpu.memory < 300e9
        assert 10e9 < gpu.link_bandwidth < 1e12


def test_a_roofline_is_memory_first_and_arithmetic_later() -> None:
    perfect = Roofline("H100", PLAIN, ModelSize(1e9, 0), efficiency=1.0, arithmetic_efficiency=1.0)
    assert float(perfect.target_seconds(1)) == pytest.approx(16e9 / 3350e9, rel=1e-3)
    assert float(perfect.target_seconds(8192)) == pytest.approx(2 * 8e9 * 8192 / 989e12, rel=1e-3)
    assert float(perfect.draft_seconds(3)) == pytest.approx(3 * 2e9 / 3350e9, rel=1e-3)
    assert float(perfect.target_seconds(1, 4, 1000)) == pytest.approx((16e9 + 4 * 1000 * 131072) / 3350e9, rel=1e-3)
    assert perfect.target_seconds([0, 1], 2).tolist()[0] == 0.0
    knee = perfect.target_seconds(np.arange(1, 2000))
    assert (np.diff(knee) > 0).all()
    assert not hasattr(perfect, "reach")


def test_small_models_pay_their_launches_and_large_ones_their_links() -> None:
    """Two published steps on one H100 chose the constants: Qwen3-32B 23.65 ms, Qwen3-1.7B 2.27 ms."""
    assert 1e3 * float(PAIR.target_seconds(1, 1, 250)) == pytest.approx(23.65, rel=0.03)
    assert 1e3 * float(PAIR.draft_seconds(1, 1, 250)) == pytest.approx(2.27, rel=0.03)
    bare = replace(PAIR, draft=replace(DRAFT, layers=0))
    assert float(PAIR.draft_seconds(1) - bare.draft_seconds(1)) == pytest.approx(28 * LAUNCH_SECONDS)
    two, four = (replace(PAIR, target_gpus=gpus) for gpus in (2, 4))
    assert float(PAIR.target_seconds(1)) / 2 < float(two.target_seconds(1)) < float(PAIR.target_seconds(1))
    slow = replace(four, gpu="L40S")
    alone = replace(slow, target=replace(TARGET, layers=0))
    links = 64 * (LAUNCH_SECONDS + 2 * 30e-6)
    assert float(slow.target_seconds(1) - alone.target_seconds(1)) == pytest.approx(links, rel=0.01)


@pytest.mark.parametrize(
    ("gpu", "gpus", "model", "batch", "milliseconds"),
    [
        ("H200", 2, "llama-3.1-70b", 1, 22.4),
        ("H200", 2, "llama-3.1-70b", 16, 24.4),
        ("H200", 2, "llama-3.1-70b", 32, 26.5),
        ("H200", 2, "qwen3-32b", 1, 12.7),
        ("H200", 2, "qwen3-32b", 16, 13.7),
        ("H200", 2, "qwen3-32b", 32, 14.5),
        ("L40S", 4, "qwen3-32b", 1, 27.4),
    ],
)
def test_published_steps_are_met_as_the_page_says(gpu: str, gpus: int, model: str, batch: int, milliseconds: float) -> None:
    """nano-PEARL's autoregressive steps (MIT), with some prefill in them; see docs/how-to/hardware.md."""
    found = Roofline(gpu, read_model(model), DRAFT, target_gpus=gpus)
    assert -0.2 < 1e3 * float(found.target_seconds(1, batch, 300)) / milliseconds - 1 < 0.01


def test_bytes_of_experts_grow_with_the_tokens_that_choose_them() -> None:
    model = read_model("Qwen/Qwen3-30B-A3B")
    assert float(model.distinct_experts(1)) == pytest.approx(8)
    assert float(model.distinct_experts(2)) == pytest.approx(8 + 8 * (1 - 8 / 128))
    assert float(model.read_bytes(1)) == pytest.approx(2 * model.parameters_per_token)
    assert 3.0e9 < model.parameters_per_token < 3.4e9  # "A3B", without the table that is looked up
    assert float(model.read_bytes(1e6)) == pytest.approx(model.weight_bytes - 2 * model.lookup_parameters)
    dense = replace(model, experts=1, experts_per_token=1)
    assert float(dense.read_bytes(1)) == float(dense.read_bytes(1000))


def test_layers_with_a_window_read_no_more_than_it() -> None:
    model = read_model("gpt-oss-20b")
    assert float(model.cached_bytes(100)) == 100 * model.cache_bytes_per_token
    assert float(model.cached_bytes(1128) - model.cached_bytes(128)) == 1000 * model.cache_bytes_per_token / 2


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"gpu": "H1000"}, "did you mean H100"),
        ({"gpu": "TPU"}, "known are A10, A100"),
        ({"gpu": ""}, "unknown GPU ''"),
        ({"efficiency": 0.0}, "efficiency 0.0"),
        ({"arithmetic_efficiency": 1.1}, "efficiency 1.1"),
        ({"target_gpus": 0}, "target_gpus 0"),
        ({"draft_gpus": 0}, "draft_gpus 0"),
    ],
)
def test_an_impossible_roofline_is_refused_by_name(change: dict[str, Any], culprit: str) -> None:
    possible: dict[str, Any] = {"gpu": "H100", "target": PLAIN, "draft": ModelSize(1e9, 0)}
    with pytest.raises(InputError, match=culprit):
        Roofline(**possible | change)


def test_anchors_are_met_and_keep_the_shape() -> None:
    one = Anchored(PAIR, [Anchor.parse("batch=1:33.9ms")])
    assert (PAIR.tag, one.tag) == ("table", "fitted")
    assert float(one.target_seconds(1, 1, 256)) == pytest.approx(33.9e-3)
    factor = 33.9e-3 / float(PAIR.target_seconds(1, 1, 256))
    assert float(one.target_seconds(5, 8, 999)) == pytest.approx(factor * float(PAIR.target_seconds(5, 8, 999)))
    assert float(one.draft_seconds(4, 2)) == pytest.approx(factor * float(PAIR.draft_seconds(4, 2)))
    # published steps at 32 and 256 sequences, on the GPU that was anchored on
    assert 1e3 * float(one.target_seconds(1, 32, 300)) == pytest.approx(36.7, rel=0.05)
    assert 1e3 * float(one.target_seconds(1, 256, 300)) == pytest.approx(49.9, rel=0.05)
    assert float(one.target_seconds(0)) == 0

    texts = ("batch=1:33.9ms", "batch=32,width=2,context=500:40ms", "draft, batch=1:3ms", "target,batch=16:35ms")
    several = Anchored(PAIR, [Anchor.parse(text) for text in texts])
    assert float(several.target_seconds(2, 32, 500)) == pytest.approx(40e-3)
    assert float(several.target_seconds(1, 16, 256)) == pytest.approx(35e-3)
    assert float(several.draft_seconds(2, 1, 256)) == pytest.approx(6e-3)
    assert float(several.draft_seconds(1, 64, 256)) == pytest.approx(
        3e-3 * float(PAIR.draft_seconds(1, 64, 256)) / float(PAIR.draft_seconds(1, 1, 256))
    )


@pytest.mark.parametrize(
    ("texts", "culprit"),
    [
        (["batch=1"], "--anchor 'batch=1'"),
        (["1:3ms"], "--anchor '1:3ms'"),
        (["batch=0:3ms"], "batch 0"),
        (["batch=1,batch=2:3ms"], "not understood"),
        (["rows=1:3ms"], "not understood"),
        (["batch=1:0ms"], "time above 0"),
        (["batch=1:3"], "give a number with its unit"),
        (["draft,width=2:3ms"], "one token at a time"),
        (["draft,batch=1:3ms"], "no anchor is a step of the target"),
        (["batch=4:3ms", "width=4:3ms"], "two anchors of the target have 4 rows"),
    ],
)
def test_bad_anchors_are_refused_by_name(texts: list[str], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        Anchored(PAIR, [Anchor.parse(text) for text in texts])


def test_the_pool_is_what_weights_and_overhead_leave() -> None:
    eight = read_model("meta-llama/Llama-3.1-8B-Instruct")
    free = GPUS["H100"].memory * 0.9 - 4e9 - eight.weight_bytes
    assert kv_tokens("h100", eight) == int(free / 131072)
    together = kv_tokens("H100 NVL", TARGET, DRAFT)
    free = GPUS["H100 NVL"].memory * 0.9 - 4e9 - 2e9 - TARGET.weight_bytes - DRAFT.weight_bytes
    assert together == int(free / (TARGET.cache_bytes_per_token + DRAFT.cache_bytes_per_token))
    assert together < kv_tokens("H100 NVL", TARGET)
    assert kv_tokens("H100", TARGET, gpus=2) > 4 * kv_tokens("H100", TARGET)  # weights are held once


def test_heads_are_split_over_gpus_as_far_as_they_go() -> None:
    one_head = replace(PLAIN, key_heads=1)
    assert (PLAIN.cache_bytes_on_each(4), one_head.cache_bytes_on_each(4)) == (131072 / 4, 131072)
    assert kv_tokens("H100", PLAIN, gpus=4) == pytest.approx(4 * kv_tokens("H100", one_head, gpus=4), abs=4)


def test_models_that_do_not_fit_are_refused_with_the_gpus_that_they_need() -> None:
    large = read_model("llama-3.1-70b")
    with pytest.raises(InputError, match=r"weights of 141 GB do not fit 1 L40S, .* give 4 GPUs") as refused:
        kv_tokens("L40S", large)
    assert "\n" not in str(refused.value)
    assert gpus_needed("l40s", large) == 4
    assert kv_tokens("L40S", large, gpus=4) > 0
    assert gpus_needed("H100", large) == 2
    assert gpus_needed("H100", read_model("DeepSeek-V3")) == 16  # as its makers say
    assert gpus_needed("H100", read_model("gpt-oss-120b")) == 1  # as its makers say
    with pytest.raises(InputError, match="gpus 0"):
        kv_tokens("H100", PLAIN, gpus=0)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in for aiconfigurator-core: 20 ms, a little noise, and 1 ns for each token of context and GPU-less row."""
    asked: list[tuple[Any, ...]] = []

    class Engine:
        @classmethod
        def compile(cls, model: str, system: str, backend: str, *, tp_size: int) -> Engine:
            asked.append((model, system, backend, tp_size))
            if system != "h100_sxm":
                raise ValueError("no perf\n database")
            return cls()

        def predict_decode_latency(self, batch: int, context: int, answer: int) -> float:
            return 20 + (0.5 if batch == 2 else 0) + 0.05 * batch + 1e-6 * 1e3 * batch * context

    for name in ("aiconfigurator_core", "aiconfigurator_core.sdk"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    engine = ModuleType("aiconfigurator_core.sdk.engine")
    engine.EngineHandle = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.engine", engine)
    return asked


def test_kernels_of_another_package_are_a_curve_of_rows(kernels: list[tuple[Any, ...]]) -> None:
    latency = Aiconfigurator("h100_sxm", "Qwen/Qwen3-32B", "Qwen/Qwen3-1.7B", target_gpus=2)
    assert kernels == [("Qwen/Qwen3-32B", "h100_sxm", "vllm", 2), ("Qwen/Qwen3-1.7B", "h100_sxm", "vllm", 1)]
    assert latency.tag == "table"
    assert float(latency.target_seconds(1, 64, 0)) == pytest.approx(1e-3 * (20 + 0.05 * 64), rel=0.01)
    assert float(latency.target_seconds(8, 8, 0)) == float(latency.target_seconds(1, 64, 0))
    assert float(latency.target_seconds(1, 4, 1000) - latency.target_seconds(1, 4, 0)) == pytest.approx(4e-3)
    assert (np.diff(latency.target_seconds(np.arange(1, 9))) >= 0).all()  # the noise at 2 is smoothed out
    assert float(latency.draft_seconds(3, 64)) == pytest.approx(3 * float(latency.target_seconds(1, 64)))
    assert float(latency.target_seconds(0)) == 0
    anchored = Anchored(latency, [Anchor(40e-3)])
    assert float(anchored.target_seconds(1, 1, 256)) == pytest.approx(40e-3)


def test_what_another_package_lacks_is_refused_in_one_line(kernels: list[tuple[Any, ...]]) -> None:
    with pytest.raises(InputError, match=r"no table of Qwen/Qwen3-32B on 1 h100_pcie \(no perf database\)"):
        Aiconfigurator("h100_pcie", "Qwen/Qwen3-32B", "Qwen/Qwen3-1.7B")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    with pytest.raises(InputError, match=r"pip install 'pearl-specdec\[aiconfigurator\]'"):
        Aiconfigurator("h100_sxm", "Qwen/Qwen3-32B", "Qwen/Qwen3-1.7B")
