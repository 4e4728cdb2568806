"""Prometheus text (`/metrics`) as samples, and what happened between two scrapes of one engine.

Counters only mean something as differences, so a run is made of two scrapes. Several series of one counter are added up; those
of several models or engines are refused, since their times and batches are not of one engine. Buckets of histograms are too
coarse for medians: only means are taken, which are exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from sim.engines.run import Times
from specdec.errors import InputError

SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$")
LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
START = "process_start_time_seconds"
ONE_OF = ("model_name", "engine", "dp_rank")
"""Labels that must have one value: a scrape of several is several runs."""


@dataclass(frozen=True)
class Sample:
    """A number of a scrape: its name without a deployment's prefix, and its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """A file with the answer of `/metrics`."""

    source: str
    samples: tuple[Sample, ...]

    def named(self, name: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.name == name]

    def total(self, name: str) -> float | None:
        """The sum over all series of a name; `None` without one."""
        found = self.named(name)
        return sum(sample.value for sample in found) if found else None

    def label(self, prefix: str, label: str) -> str:
        """The one value of a label in all samples whose name begins with `prefix`; empty without it.

        Raises `InputError` for several.
        """
        values = {one.labels[label] for one in self.samples if one.name.startswith(prefix) and one.labels.get(label)}
        if len(values) > 1:
            raise InputError(
                f"{self.source} holds {len(values)} of {label} ({', '.join(sorted(values)[:4])}): scrape one engine, one model"
            )
        return next(iter(values), "")


def parsed(text: str, source: str) -> Scrape:
    """The samples of a scrape, without those of SGLang's draft engine. Raises `InputError` that names a line that is none."""
    samples = list[Sample]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = SAMPLE.match(line.strip())
        value = _number(found["value"]) if found else None
        labels = _labels(found["labels"] or "") if found else None
        if found is None or value is None or labels is None:
            raise InputError(
                f"{source} line {number} is no sample of /metrics ({line.strip()[:40]!r}): save the answer as it is"
            )
        if labels.get("engine_type") != "draft":
            samples.append(Sample(found["name"].removeprefix("kserve_"), labels, value))
    return Scrape(source, tuple(samples))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _labels(text: str) -> dict[str, str] | None:
    labels, at = dict[str, str](), 0
    while at < len(text.rstrip()):
        found = LABEL.match(text, at)
        if found is None:
            return None
        labels[found[1]] = re.sub(r"\\(.)", r"\1", found[2])
        at = found.end()
    return labels


@dataclass(frozen=True)
class Between:
    """What one engine did between two scrapes, the earlier first.

    `prefix` is that of the engine's names. Raises `InputError` for scrapes of two processes, or of several engines.
    """

    before: Scrape
    after: Scrape
    prefix: str

    def __post_init__(self) -> None:
        for label in ONE_OF:
            if self.before.label(self.prefix, label) != self.after.label(self.prefix, label):
                raise InputError(f"{self.source} differ in {label}: scrape one engine twice")
        starts = [scrape.total(START) for scrape in (self.before, self.after)]
        if None not in starts and starts[0] != starts[1]:
            raise InputError(f"{self.source}: the engine started again between the two: scrape twice without a restart")

    @property
    def source(self) -> str:
        return f"{self.before.source} and {self.after.source}"

    @property
    def model(self) -> str:
        return self.after.label(self.prefix, "model_name")

    def grown(self, *names: str) -> float | None:
        """By how much the first of these counters that is there grew; `None` without one.

        A series that is new in the second scrape grew from 0. Raises `InputError` for one that fell.
        """
        for name in names:
            after = self.after.total(self.prefix + name)
            if after is None:
                continue
            growth = after - (self.before.total(self.prefix + name) or 0.0)
            if not isfinite(growth):
                raise InputError(f"{self.source}: {self.prefix}{name} is no number: save the answer of /metrics as it is")
            if growth < 0:
                raise InputError(
                    f"{self.source}: {self.prefix}{name} fell, so the engine started again or the two are in the wrong order: "
                    "give the earlier file first, and scrape twice without a restart"
                )
            return growth
        return None

    def needed(self, *names: str) -> float:
        """`grown`, which must have grown. Raises `InputError` that lists the names."""
        growth = self.grown(*names)
        if growth is None:
            raise InputError(
                f"{self.source} have no {' or '.join(self.prefix + name for name in names)}: these names of "
                f"{len(self.after.samples)} samples are not known here; export them by one of these names"
            )
        if growth == 0:
            raise InputError(f"{self.source}: {self.prefix}{names[0]} did not grow: scrape before and after a load")
        return growth

    def mean(self, *names: str) -> Times:
        """The mean of the first of these histograms that is there, over what was observed between the scrapes."""
        for name in names:
            count = self.grown(f"{name}_count")
            if count:
                return Times((self.grown(f"{name}_sum") or 0.0) / count)
        return Times()

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """By how much each series of a counter grew, by one of its labels."""
        before, after = (self._series(scrape, name, label) for scrape in (self.before, self.after))
        return {value: number - before.get(value, 0.0) for value, number in after.items()}

    def _series(self, scrape: Scrape, name: str, label: str) -> dict[str, float]:
        return {one.labels.get(label, ""): one.value for one in scrape.named(self.prefix + name)}


def in_pairs(scrapes: Sequence[Scrape], prefix_of: Callable[[Scrape], str]) -> list[Between]:
    """Scrapes as pairs, in the order in which they were given. Raises `InputError` for one that is left alone."""
    if len(scrapes) % 2:
        raise InputError(
            f"{scrapes[-1].source} is a single scrape of /metrics, and counters only mean something between two: "
            "scrape before and after a load, and give both files, the earlier first"
        )
    return [Between(before, after, prefix_of(after)) for before, after in zip(scrapes[::2], scrapes[1::2], strict=True)]
