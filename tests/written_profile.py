"""A profile as it is read from a file."""

from __future__ import annotations

from typing import Any


def written_profile() -> dict[str, Any]:
    contexts = {64: 0.0, 256: 2e-4}
    return {
        "target_seconds": [
            {"width": width, "batch": 1, "context": context, "mean": 5e-3 + 1e-4 * width + more, "cv": 0.05}
            for width in (1, 4, 8)
            for context, more in contexts.items()
        ]
        + [{"width": 1, "batch": 4, "context": 64, "mean": 10.2e-3, "cv": 0.05}],
        "draft_seconds": [
            {"batch": 1, "context": context, "mean": 1e-3 + more, "cv": 0.1} for context, more in contexts.items()
        ],
        "draft_start_seconds": 5e-4,
        "in_turn": {"target_factor": 1.2, "draft_factor": 1.4},
        "together": {"target_factor": 1.1, "draft_factor": 1.3},
        "round_overhead_seconds": 2e-4,
        "drafting_overhead_seconds": 3e-4,
        "acceptance": {"rate": 0.7, "run_lengths": {"0": 30, "1": 20, "5": 10}, "by_file": {}},
    }
