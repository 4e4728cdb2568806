"""Values and command lines from which `fuzz_inputs.py` makes its cases."""

from __future__ import annotations

from typing import Any

HUGE = "1" + 30 * "0"
NUMBERS = [
    *[
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "3",
        "0.5",
        "1e308",
        "-1e308",
        "1e-320",
        "1e-9",
        "nan",
        "inf",
        "-inf",
        "65536",
        "0x10",
        "1_000",
        "1e",
        "+1",
        "1.5",
        "9999999999",
        "1e400",
        "2147483648",
    ],
    *(HUGE, f"-{HUGE}", 5000 * "9", "\u0663", "\u00bd"),
]
TEXTS = [
    *("", " ", "\t", "\n", 300 * "x", 100_000 * "x", "\x1b[31m", "\u00e9", "\u65e5\u672c", "caf\udce9", "\ud800"),
    *[
        "/",
        ".",
        "..",
        "-",
        "--",
        "[red]",
        "[/]",
        "{x}",
        "%s",
        "=",
        "a=b=c",
        "NAME=",
        "/dev/null",
        "/dev/full",
        "/dev/zero/x",
        "a,b",
        ",",
        ":",
        "auto",
        "cpu",
        "cuda",
        "cuda:99",
        "meta",
    ],
    *["float64", "none", "shape:", "shape:tiny-target", "shape:x", "synthetic:0.8"],
]
TIMES = [
    *["1ms", "5ms", "0ms", "-1ms", "1e308s", "1e-320ms", "1e-300s", "5", "nanms", "infs", "1e400s", ".ms"],
    400 * "9" + "s",
    "1 ms",
]
ACCEPTANCES = [
    *[
        "0.8",
        "1",
        "0",
        "1.1",
        "-0.1",
        "80%",
        "1e308%",
        "markov:0.8,0.6",
        "markov:",
        "markov:nan,1",
        "markov:1,1",
        "markov:0,0",
        "run:0",
        "run:1",
        "run:1e308",
    ],
    *["run:inf", "run:3", "0.9,0.8,nan", "0.9,0.8", "rate", "recorded", "0,0,0"],
    *["mean:2.9@3", "mean:2.9", "mean:1e308@3", "mean:2@99999", "marginal:0.8,0.6", "marginal:0.6,0.8", "histogram:39,1,0,3"],
    *["histogram:1e308,1", "histogram:nan", "golden:glm-5.2-fp8", "golden:kimi-k3", "golden:", "x:1"],
]
LAWS = [
    "poisson:1/s",
    "poisson:1e308/s",
    "poisson:1e-320/s",
    "poisson:0",
    "gamma:5/s,cv=1e308",
    "gamma:5/s,cv=0",
    "gamma:5,cv=2",
]
SIZES = ["512", "512,cv=0.5", "1e308", "1e-320", "512,cv=1e308", "1e9", "5,cv=1e-320"]
LISTS = ["1", "1-3", "1-1000000000000", "1,2,3", "1-", "-1", "0-1", "3-1", "1-1000", "1,,2"]
WINDOWS = [*["4=5.5ms", "0=1ms", "x=1ms", "4=1e308s", "2=1e-320s", "4="], f"{HUGE}=1ms"]
SETTINGS = [
    *[
        "draft_length=2",
        "draft_length=1e308",
        "draft_length=nan",
        "longest_match=0",
        "colour=3",
        "most_drafted=3",
        "draft_length=true",
        "=",
    ],
    *(f"draft_length={HUGE}", f"most_drafted={HUGE}", "draft_length=1000", "draft_length=-0"),
]
PAIRS = ["1.2,1.5", "1e308,1", "0,0", "nan,nan", "1", "0.1", "1e308", "1,1,1"]
HINTS = {
    "step": TIMES,
    "network": TIMES,
    "overhead": TIMES,
    "objective": TIMES,
    "acceptance": ACCEPTANCES,
    "arrivals": LAWS,
    "tokens": SIZES + NUMBERS,
    "lengths": LISTS,
    "window": WINDOWS,
    "--set": SETTINGS,
    "together": PAIRS,
    "jitter": PAIRS,
    "strategy": ["pearl", "speculative", "elastic", "autoregressive", "prompt_lookup", "perl"],
    "gpu": ["H200", "A100", "h100", "x"],
}
"""Values that nearly fit, by a part of an option's name."""

SYSTEM = ["--acceptance", "0.8", "--draft-step", "1ms", "--target-step", "5ms"]
WITH_PROFILE = ["--profile", "good.json"]
WITH_GPU = [
    "--acceptance",
    "0.8",
    "--gpu",
    "H200",
    "--target-config",
    "target/config.json",
    "--draft-config",
    "draft/config.json",
]
PAIR = ["--target", "target", "--draft", "draft", "--lane", "inline"]
SERVING = ["--arrivals", "poisson:2/s", "--requests", "5", "--output-tokens", "8", "--input-tokens", "4"]
FROM_TRACE = ["--trace", "good.csv"]
BENCH = ["--limit", "1", "--max-new-tokens", "2", "--repeats", "1", "--seconds", "0.1", "--temperature", "0"]
BASES: dict[str, list[list[str]]] = {
    "generate": [["hello", *PAIR, "--max-new-tokens", "3", "--draft-length", "2"], ["-", *PAIR, "--max-new-tokens", "3"]],
    "bench": [[*PAIR, *BENCH, "--strategy", "speculative", "--draft-lengths", "1"]],
    "prove": [["speculative", "--set", "draft_length=1", "--pairs", "1", "--verification", "token"]],
    "profile": [[*PAIR, "--limit", "1", "--max-new-tokens", "1", "--repeats", "2"]],
    "simulate": [
        [*system, "--strategy", "pearl", "--draft-length", "2", "--tokens", "50", *load]
        for system in (SYSTEM, WITH_PROFILE, WITH_GPU)
        for load in ([], [], SERVING, FROM_TRACE)
    ],
    "tune": [[*system, "--tokens", "0", "--draft-lengths", "1-2"] for system in (SYSTEM, WITH_PROFILE)],
    "timeline": [[*system, "--rounds", "2"] for system in (SYSTEM, WITH_PROFILE, WITH_GPU)],
    "validate": [["--no-measure"]],
}
"""Command lines that work and are quick; each case spoils one."""
WEIGHTS = {"generate": 25, "bench": 8, "prove": 1, "profile": 3, "simulate": 30, "tune": 8, "timeline": 20, "validate": 6}
APART = ["closed out", "full out", "closed err", "full err", "closed in", "interrupt", "interrupt", "ascii", "bytes", "process"]
EVERY = 100
"""One case in so many runs in an interpreter of its own."""

PROFILE: dict[str, Any] = {
    "target_seconds": [{"width": width, "batch": 1, "context": 64, "mean": 5e-3, "cv": 0.05} for width in (1, 4, 8)],
    "draft_seconds": [{"batch": 1, "context": 64, "mean": 1e-3, "cv": 0.1}],
    "draft_start_seconds": 5e-4,
    "in_turn": {"target_factor": 1.2, "draft_factor": 1.4},
    "together": {"target_factor": 1.1, "draft_factor": 1.3},
    "round_overhead_seconds": 2e-4,
    "drafting_overhead_seconds": 3e-4,
    "acceptance": {"rate": 0.7, "run_lengths": {"0": 30, "1": 20, "5": 10}, "by_file": {}},
}
