"""Compares PEARL's published speed-ups with the compiled chain: `python -m sim.study.paper`.

Source: Liu et al., ICLR 2025, arXiv 2408.11850. The paper gives speed-ups over autoregressive decoding, and the draft lengths
of its scripts, which are speed ratios c, but no acceptance rate for each task. Here the acceptance rate that explains each
speed-up is solved for. Speculative decoding is computed at that rate too: at the same draft length (untuned), and at its best
one (tuned). Near an acceptance of .95, PEARL is 1.46 times as fast as untuned speculative decoding, as published, and 1.34
times as fast as tuned. PEARL has two devices there; speculative decoding needs one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.study.search import best_of, candidates
from specdec import InputError, create

PUBLISHED = (
    ("Llama 3.1 8B / 70B", "HumanEval", 5, 3.87),
    ("Llama 3.1 8B / 70B", "GSM8K", 5, 3.81),
    ("Llama 3.1 8B / 70B", "MT-bench", 5, 3.59),
    ("Llama 3.1 8B / 70B", "MGSM", 5, 3.95),
    ("headline, c of 7B / 70B assumed", "best of all", 5, 4.43),
)
"""Pair, task, speed ratio, speed-up of PEARL over autoregressive decoding."""

PUBLISHED_OVER_SPECULATIVE = 1.50


@dataclass(frozen=True)
class Reading:
    """Speed-ups over autoregressive decoding at one speed ratio and acceptance rate."""

    acceptance: float
    pearl: float
    untuned: float
    tuned: float
    tuned_length: int | None


def _regime(speed_ratio: float) -> System:
    """A draft step of one part in `speed_ratio` of a target step, on two devices, with free verification."""
    return System(Constant(1 / speed_ratio, 1.0))


def reading(speed_ratio: float, acceptance: float) -> Reading:
    """PEARL at draft length c, and speculative decoding at that length and at its best; two devices, free verification."""
    system, rate, length = _regime(speed_ratio), Rate(acceptance), round(speed_ratio)
    pearl, untuned = (candidates(name, partial(create, name), [length])[0] for name in ("pearl", "speculative"))
    lengths = candidates("speculative", partial(create, "speculative"), range(1, 33))
    tuned = best_of(lengths, rate, system)
    pearl_speed, untuned_speed = (float(one.speedup(rate, system)) for one in (pearl, untuned))
    return Reading(acceptance, pearl_speed, untuned_speed, tuned.speedup_over_ar, tuned.draft_length)


def explained(speed_ratio: float, speedup: float) -> Reading:
    """The reading at the acceptance rate at which PEARL reaches `speedup`."""
    system, (pearl,) = _regime(speed_ratio), candidates("pearl", partial(create, "pearl"), [round(speed_ratio)])
    if not 1 <= speedup <= speed_ratio:
        raise InputError(f"PEARL cannot reach {speedup}x at speed ratio {speed_ratio}: its limit is the ratio itself")
    found = brentq(lambda rate: float(pearl.speedup(Rate(rate), system)) - speedup, 0, 1, xtol=1e-9)
    return reading(speed_ratio, float(found))  # type: ignore[arg-type]  # the stub mixes up full_output


def main() -> None:
    """Print both tables."""
    console = Console()
    headings = ("acceptance", "PEARL", "SD, same length", "SD, tuned", "PEARL / same", "PEARL / tuned")
    published = Table("pair", "task", "c", "published", *headings, title="Acceptance that explains the published speed-up")
    for pair, task, ratio, speedup in PUBLISHED:
        published.add_row(pair, task, str(ratio), f"{speedup:.2f}x", *_cells(explained(ratio, speedup)))
    regime = Table("c", *headings, title=f"The paper's regime; published over SD: up to {PUBLISHED_OVER_SPECULATIVE:.2f}x")
    for ratio in (3, 4, 5):
        for rate in (0.6, 0.7, 0.8, 0.9, 0.95):
            regime.add_row(str(ratio), *_cells(reading(ratio, rate)))
    console.print(published, regime)


def _cells(found: Reading) -> list[str]:
    return [
        f"{found.acceptance:.3f}",
        f"{found.pearl:.2f}x",
        f"{found.untuned:.2f}x",
        f"{found.tuned:.2f}x (length {found.tuned_length})",
        f"{found.pearl / found.untuned:.2f}",
        f"{found.pearl / found.tuned:.2f}",
    ]


if __name__ == "__main__":
    main()
