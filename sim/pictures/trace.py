"""A timeline in Chrome's trace event format, which https://ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

from typing import Any

from sim.stream.timeline import Timeline

THREADS = {"target": 1, "draft": 2}


def chrome_trace(shown: Timeline) -> dict[str, Any]:
    """The trace as plain values for JSON; its times are in microseconds."""
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": model}}
        for model, thread in THREADS.items()
    ]
    events = [
        {
            "name": piece.kind,
            "cat": piece.lane,
            "ph": "X",
            "pid": 1,
            "tid": THREADS[piece.lane],
            "ts": 1e6 * piece.start_seconds,
            "dur": 1e6 * (piece.end_seconds - piece.start_seconds),
            "args": {"round": piece.round} | ({"positions": piece.rows} if piece.rows else {}),
        }
        for piece in shown.work
    ]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}
