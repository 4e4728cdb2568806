"""Ways to decode with a target: what drafts, where it runs, what that costs, and how often it is right.

A method is what a person can deploy: the target alone, a draft model beside it, a head on it. It comes from a profile, whatever
that was made of: measured here, identified from an engine's runs, or computed from data sheets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sim.engines.run import DRAFT_MODEL
from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Floats
from sim.setup.latency import Latency, Reach, fork_reach, fork_seconds, reach
from sim.setup.memory import kv_tokens
from sim.setup.model_size import read_model
from sim.setup.profiles import measured_acceptance, measured_system
from sim.setup.roofline import Roofline
from sim.setup.system import System
from specdec.acceptance import Tag
from specdec.errors import InputError
from specdec.profile import Profile

PlaceName: TypeAlias = Literal["shared", "own device", "draft pool", "as measured"]
"""Where the draft runs: on the target's GPUs, on its own, on its own for several replicas, or as a pair was measured that works
at once on one machine."""

POOLED = 4
"""Replicas that share the device of a draft pool."""

LONGEST = 8
"""Guesses of a round at most, where acceptance is known for every length."""
EXCHANGE_SECONDS = 3e-4
"""Assumed way of a round's tokens between two devices, there and back."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a method's draft runs, and what follows from it for one replica.

    `name`        where
    `system`      the devices
    `gpus`        of the target, in one replica
    `draft_gpus`  of the draft alone
    `sharers`     replicas that share those
    `kv_tokens`   tokens that its cache holds, and its share of the draft's; `None`: not known, taken as no limit
    """

    name: PlaceName
    system: System
    gpus: int = 1
    draft_gpus: int = 0
    sharers: int = 1
    kv_tokens: int | None = None

    def gpus_of(self, replicas: int) -> int:
        """GPUs of so many replicas."""
        return replicas * self.gpus + -(-replicas // self.sharers) * self.draft_gpus

    def most_replicas(self, gpus: int) -> int:
        """Replicas that so many GPUs are enough for."""
        return max((n for n in range(gpus // self.gpus + 1) if self.gpus_of(n) <= gpus), default=0)


@dataclass(frozen=True, eq=False)
class Pooled:
    """A latency whose draft works for several replicas in one batch. An assumption: all of them ask at the same time."""

    latency: Latency
    sharers: int

    @property
    def reach(self) -> Reach:
        alone = reach(self.latency)
        return alone._replace(sequences=alone.sequences / self.sharers)

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.latency.draft_seconds(tokens, self.sharers * np.asarray(batch), context)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        return fork_seconds(self.latency, rows, branches, steps, self.sharers * np.asarray(batch), context)

    @property
    def fork_reach(self) -> float:
        return fork_reach(self.latency) / self.sharers

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.latency.target_seconds(width, batch, context)


@dataclass(frozen=True, eq=False)
class Method:
    """A way to decode.

    `name`         as engines call it: `ar`, `draft_model`, `eagle3`, ...
    `places`       where its draft may run
    `acceptance`   how often guesses are right; `None` for `ar`
    `longest`      the most guesses whose acceptance is known; 0 for `ar`
    `draft`        name of the draft; empty for `ar`
    `tags`         how its numbers came about, by what they are: `step`, `acceptance`, `kv_tokens`
    `provenance`   where they come from, in words, by what they are
    """

    name: str
    places: tuple[Place, ...]
    acceptance: Acceptance | None = None
    longest: int = 0
    draft: str = ""
    tags: Mapping[str, Tag] = field(default_factory=dict[str, Tag])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        """For sentences: `draft model Qwen3-1.7B`, `AR`."""
        if self.name == "ar":
            return "AR"
        known = {"draft_model": "draft model", "eagle3": "EAGLE-3", "eagle": "EAGLE", "mtp": "MTP"}
        draft = self.draft.rpartition("/")[2]
        named = self.name == DRAFT_MODEL and draft not in ("", self.name)
        return known.get(self.name, self.name) + (f" {draft}" if named else "")


def methods_of(
    profiles: Mapping[str, Profile],
    *,
    target_gpus: int | None = None,
    draft_gpus: int | None = None,
    exchange_seconds: float = EXCHANGE_SECONDS,
    acceptance: Acceptance | None = None,
    acceptance_tag: Tag = "assumed",
    draft: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> tuple[Method, ...]:
    """The methods of profiles of one target, by the names of the methods; `ar` first.

    A draft model gets places of its own too, on `draft_gpus`, 1 unless given. There the target's cache has the whole pool, and
    `exchange_seconds` go by in each round. A pair that was measured at work at once counts the GPUs that are given; without
    any, one is assumed for both models, aloud. `acceptance`, which came about as `acceptance_tag` says, and the name `draft`
    replace those of the profiles. Raises `InputError` for profiles of several targets.
    """
    if not profiles:
        raise InputError("a plan needs a profile: give one, or runs of an engine")
    targets = {profile.pair.target for profile in profiles.values()}
    if len(targets) > 1:
        raise InputError(f"a plan is for one target, and the profiles are of {', '.join(sorted(targets))}: give those of one")
    first = next(iter(profiles.values()))
    alone = profiles.get("ar", first)
    pool = profiles["ar"].kv_tokens if "ar" in profiles else first.kv_tokens
    words = dict(provenance or {})
    if target_gpus is None and draft_gpus is None and any(one.together is not None for one in profiles.values()):
        words["GPUs"] = "one is assumed for both models, which work at once: give --target-gpus and --draft-gpus"
    gpus, of_draft = target_gpus or 1, draft_gpus or 1
    target = measured_system(alone, source=f"the profile of {alone.pair.target or 'the target'}")
    place = Place("shared", target, gpus, kv_tokens=pool)
    found = [Method("ar", (place,), tags=_tags(alone), provenance=words)]
    for name, profile in profiles.items():
        if name == "ar":
            continue
        system = measured_system(profile, source=f"the profile of {profile.pair.draft or name}")
        if profile.together is None:
            places = [Place("shared", system, gpus, kv_tokens=profile.kv_tokens)]
            places += apart(system, pool, gpus, of_draft, exchange_seconds) if name == DRAFT_MODEL else []
        else:
            places = [Place("as measured", system, gpus, draft_gpus or 0, kv_tokens=profile.kv_tokens)]
        accepted = measured_acceptance(profile) if acceptance is None else acceptance
        known = LONGEST if accepted.longest is None else accepted.longest
        tags = _tags(profile)
        tags["acceptance"] = profile.acceptance.tag if acceptance is None else acceptance_tag
        found.append(Method(name, tuple(places), accepted, known, draft or profile.pair.draft, tags, words))
    return tuple(found)


def methods_of_systems(
    shared: System | None,
    alone: System,
    acceptance: Acceptance,
    *,
    name: str = "draft_model",
    draft: str = "draft",
    target_gpus: int = 1,
    draft_gpus: int = 1,
    shared_kv_tokens: int | None = None,
    kv_tokens: int | None = None,
    draft_kv_tokens: int | None = None,
    exchange_seconds: float = EXCHANGE_SECONDS,
    tags: Mapping[str, Tag] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> tuple[Method, ...]:
    """The target alone, and with a draft whose forwards are given: computed from data sheets, or constants.

    `shared`             both models on the target's GPUs; `None` where they do not fit, so that the draft has no place there
    `alone`              the target on its GPUs, the draft elsewhere
    `shared_kv_tokens`   tokens that the cache holds beside both models, and `kv_tokens` beside the target alone
    `draft_kv_tokens`    tokens that the draft's cache holds on its own GPUs; `None`: not known, taken as no limit
    """
    tags, words = tags or {}, provenance or {}
    places = [] if shared is None else [Place("shared", shared, target_gpus, kv_tokens=shared_kv_tokens)]
    if name == DRAFT_MODEL:
        places += apart(alone, kv_tokens, target_gpus, draft_gpus, exchange_seconds, draft_kv_tokens)
    longest = LONGEST if acceptance.longest is None else acceptance.longest
    of_target: dict[str, Tag] = {what: tag for what, tag in tags.items() if what != "acceptance"}
    target = Place("shared", replace(alone, shared=True, network_seconds=0.0), target_gpus, kv_tokens=kv_tokens)
    found = [Method("ar", (target,), tags=of_target, provenance=words)]
    if places:
        found.append(Method(name, tuple(places), acceptance, longest, draft, tags, words))
    return tuple(found)


def methods_on_gpu(
    gpu: str, target: str, draft: str, acceptance: Acceptance, *, target_gpus: int = 1, draft_gpus: int = 1
) -> tuple[Method, ...]:
    """The target alone and with a draft model, by the roofline of a GPU; for models of the catalogue or a `config.json`.

    Raises `InputError` for a model or a GPU that is not known, and for one that does not fit its GPUs.
    """
    sizes = read_model(target), read_model(draft)
    computed = Roofline(gpu, *sizes, target_gpus, draft_gpus)
    alone = System(computed)
    pool = kv_tokens(gpu, sizes[0], gpus=target_gpus)
    try:
        shared_pool = kv_tokens(gpu, *sizes, gpus=target_gpus)
        shared = System(Roofline(gpu, *sizes, target_gpus, target_gpus), shared=True)
    except InputError:
        shared, shared_pool = None, None
    return methods_of_systems(
        shared,
        alone,
        acceptance,
        draft=draft,
        target_gpus=target_gpus,
        draft_gpus=draft_gpus,
        shared_kv_tokens=shared_pool,
        kv_tokens=pool,
        draft_kv_tokens=kv_tokens(gpu, sizes[1], gpus=draft_gpus),
        tags={"step": computed.tag, "acceptance": "assumed", "kv_tokens": "table"},
        provenance={"step times": f"roofline of {gpu}", "acceptance": "as given"},
    )


def apart(
    system: System,
    kv_tokens: int | None,
    gpus: int,
    draft_gpus: int,
    exchange_seconds: float = EXCHANGE_SECONDS,
    draft_kv_tokens: int | None = None,
) -> list[Place]:
    """The places of a draft that does not share the target's devices: its own device, and a pool.

    A token takes room in both caches. Replicas that share a draft divide its cache evenly.
    """

    def held(sharers: int) -> int | None:
        if kv_tokens is None or draft_kv_tokens is None:
            return kv_tokens
        return min(kv_tokens, max(1, draft_kv_tokens // sharers))

    away = replace(system, shared=False, together=None, network_seconds=exchange_seconds / 2, batches=())
    pooled = replace(away, latency=Pooled(away.latency, POOLED))
    return [
        Place("own device", away, gpus, draft_gpus, kv_tokens=held(1)),
        Place("draft pool", pooled, gpus, draft_gpus, POOLED, held(POOLED)),
    ]


WORST_FIRST: Sequence[Tag] = ("assumed", "table", "extrapolated", "fitted", "measured")


def weakest(several: Sequence[Mapping[str, Tag]]) -> dict[str, Tag]:
    """By input: the weakest of the tags that it has."""
    found: dict[str, Tag] = {}
    for tag in WORST_FIRST:
        for what in (what for tags in several for what, theirs in tags.items() if theirs == tag):
            found.setdefault(what, tag)
    return found


def _tags(profile: Profile) -> dict[str, Tag]:
    """How the step times came about within what was measured, and the size of the cache."""
    steps = {one.tag for one in (*profile.target_seconds, *profile.draft_seconds)} - {"extrapolated"}
    known: list[Tag] = [tag for tag in WORST_FIRST if tag in steps]
    found: dict[str, Tag] = {"step": known[0] if known else "extrapolated"}
    if profile.kv_tokens is not None:
        found["kv_tokens"] = profile.tags.get("kv_tokens", "measured")
    return found
