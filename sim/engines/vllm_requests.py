"""Reads the acceptance that vLLM adds to each response: `metrics.speculative_decoding`, one or many in a file.

`acceptance_histogram` counts rounds by accepted guesses, the bonus excluded. All responses of a file become one run: rates by
position, the acceptance length, and the histogram. Rounds of several draft lengths are refused, since shares of all rounds
would mix them; a few shorter ones are not, since the engine may shorten the last rounds of an answer. Source: vLLM's page on
per-request acceptance metrics (0.32, experimental). The time of requests is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sim.engines.files import Found
from sim.engines.run import LONGEST, MOST, EngineRun, far_above
from sim.engines.stated import Stated
from specdec.errors import InputError

PATH = ("metrics", "speculative_decoding")
SHORTENED = 0.05
"""Share of the rounds that may have drafted fewer tokens than all others."""


def is_vllm_response(values: Mapping[str, Any]) -> bool:
    """Whether this is a response with vLLM's acceptance metrics, or these metrics alone."""
    return "acceptance_histogram" in _metrics(values)


def read_vllm_responses(responses: Sequence[Found], stated: Stated) -> EngineRun:
    """One run of all these responses."""
    source = responses[0].source if len(responses) == 1 else f"{responses[0].source} and {len(responses) - 1} more responses"
    rounds, by_length = Counter[int](), Counter[int]()
    said, listed = set[int](), 0
    for one in responses:
        metrics = Found(one.source, _metrics(one.values))
        histogram = metrics.values["acceptance_histogram"]
        counts = _histogram(metrics.source, "acceptance_histogram", histogram)
        steps = metrics.count("num_spec_steps")
        if steps is not None and (far_above(steps, sum(counts.values())) or far_above(sum(counts.values()), steps)):
            raise InputError(
                f"{metrics.source}: acceptance_histogram counts {sum(counts.values())} rounds, and num_spec_steps is {steps}: "
                "one of them is of another response"
            )
        rounds.update(counts)
        by_length.update(_rounds_by_length(metrics))
        said |= {metrics.count("num_spec_tokens") or 0} - {0}
        listed = max(listed, len(histogram) - 1 if isinstance(histogram, list) else 0)
    longest = max(said or by_length, default=listed)
    others = sum(count for length, count in by_length.items() if length != longest)
    if len(said) > 1 or others > SHORTENED * sum(by_length.values()):
        several = " and ".join(map(str, sorted({longest, *said, *by_length})))
        raise InputError(
            f"{source} has rounds that drafted {several} tokens, so shares of all rounds mean nothing: run each draft "
            "length alone"
        )
    if not sum(rounds.values()):
        raise InputError(f"{source} holds no round: ask for longer answers")
    histogram = tuple(rounds[accepted] for accepted in range(max(rounds) + 1))
    total = sum(histogram)
    length = longest or stated.draft_length or len(histogram) - 1
    shares = [sum(histogram[i:]) / total for i in range(1, length + 1)]
    return stated.run(
        source,
        True,
        target=responses[0].text("model"),
        draft_length=longest or None,
        requests=len(responses),
        acceptance_length=1 + sum(accepted * count for accepted, count in rounds.items()) / total,
        by_position=tuple(shares),
        accepted=histogram,
        rounds=total,
    )


def _metrics(values: Mapping[str, Any]) -> Mapping[str, Any]:
    inside = Found("", values).inside(*PATH).values
    return inside or values


def _histogram(source: str, name: str, found: Any) -> dict[int, int]:
    """Rounds by accepted guesses, from a list, or an object with a number for each key that occurs."""
    pairs = enumerate(found) if isinstance(found, list) else found.items() if isinstance(found, Mapping) else None
    try:
        counts = {int(key): int(value) for key, value in pairs or ()}
    except (TypeError, ValueError, OverflowError):
        counts = {}
    if not counts or min(counts) < 0 or max(counts) > LONGEST or not 0 <= min(counts.values()) <= max(counts.values()) < MOST:
        raise InputError(f"{source}: {name} {str(found)[:40]} counts no rounds: the file is damaged")
    return counts


def _rounds_by_length(metrics: Found) -> dict[int, int]:
    """How many rounds drafted so many tokens, where it is said; those that drafted none are left out."""
    name = "acceptance_histogram_by_draft_length"
    found = {length: rounds for length, rounds in metrics.inside(name).values.items() if str(length).isdecimal() and rounds}
    counts = {int(length): sum(_histogram(metrics.source, name, rounds).values()) for length, rounds in found.items()}
    return {length: count for length, count in counts.items() if length and count}
