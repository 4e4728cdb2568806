"""A point of a sweep: one strategy under one load, with a key made of everything that decides its result.

The key is a hash of values and not of names: of the strategy's fields, the numbers of the system and of acceptance, all
requests of a trace, the seed, and the text of the simulator, of the core and of the strategy's package. So a result that is
found by its key is the result that would be computed again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import specdec
from sim.setup.acceptance import Acceptance, beyond_measured
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.speed import long_run_speed, plain_tokens_per_second
from sim.study.load import NO_OBJECTIVES, Load, simulate_traffic
from sim.traffic.metrics import Objectives
from sim.traffic.record import ONE_REPLICA, Server
from sim.traffic.workload import Arrivals, Traffic, Workload
from specdec.errors import InputError, SpecdecError
from specdec.report import Parameter, Report, named, three_digits
from specdec.strategy import DecodingStrategy, require_strategy

KEY_DIGITS = 32


@dataclass(frozen=True, eq=False)
class Point:
    """What is simulated: a strategy, and the requests that it serves; without requests, only its long-run speed is computed.

    `label`   name of the model of acceptance
    """

    strategy: DecodingStrategy
    acceptance: Acceptance
    label: str
    system: System
    traffic: Traffic | Workload | None
    server: Server = ONE_REPLICA
    objectives: Objectives = NO_OBJECTIVES
    replications: int = 1
    seed: int = 0

    @property
    def rate_per_second(self) -> float | None:
        """Requests that arrive in a second; `None` where they are sent by clients, or where there are none."""
        if isinstance(self.traffic, Workload):
            return self.traffic.rate_per_second
        return self.traffic.arrivals.rate_per_second if self.traffic and self.traffic.arrivals else None

    def key(self) -> str:
        """The hash of all that decides the result."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "label"}
        told = json.dumps([_code(type(self.strategy)), described(values)])
        return hashlib.sha256(told.encode()).hexdigest()[:KEY_DIGITS]

    def named(self) -> dict[str, Any]:
        """The inputs in words."""
        return {
            "strategy": self.strategy.name,
            "parameters": self.strategy.parameters,
            "acceptance": self.label,
            "rate_per_second": self.rate_per_second,
            "clients": self.server.clients if self.traffic else None,
            "replicas": self.server.replicas,
            "max_batch": self.server.max_batch,
        }


@dataclass(frozen=True)
class Swept(Report):
    """A point of a sweep and its result; a line of the file of results.

    `key`                 hash of everything that decides the result
    `strategy`            name of the strategy
    `parameters`          its parameters by name
    `acceptance`          name of the model of acceptance
    `rate_per_second`     requests that arrive in a second; `None` (null) where clients send them, or where there are none
    `clients`             requests that clients have open at once; `None` (null) where requests arrive by themselves
    `replicas`            copies of target and draft
    `max_batch`           sequences that a replica runs at once
    `tokens_per_second`   exact long-run speed of one sequence
    `speedup_over_ar`     the same over autoregressive decoding
    `load`                how the requests were served; `None` (null) where there are none
    `remarks`             what is extrapolated, in sentences
    """

    format: ClassVar[str] = "specdec.sweep.point/1"

    key: str
    strategy: str
    parameters: Mapping[str, Parameter]
    acceptance: str
    rate_per_second: float | None
    clients: int | None
    replicas: int
    max_batch: int
    tokens_per_second: float
    speedup_over_ar: float
    load: Load | None = None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{named(self.strategy, self.parameters)}, {self.under}"

    @property
    def under(self) -> str:
        """The load in words."""
        rate = [] if self.rate_per_second is None else [f"{three_digits(self.rate_per_second)}/s"]
        clients = [] if self.clients is None else [f"{self.clients} clients"]
        return ", ".join([*rate, *clients]) or "one sequence"


@dataclass(frozen=True)
class Refused(Report):
    """A point that cannot be simulated.

    `point`   strategy and load
    `why`     what is wrong, and the remedy
    """

    point: str
    why: str


def solved(point: Point, key: str) -> Swept | Refused:
    """The result of a point. It depends on the point alone."""
    system, acceptance, inputs = point.system, point.acceptance, point.named()
    try:
        compiled = compile_strategy(point.strategy, system)
        speed = long_run_speed(compiled, acceptance, system).tokens_per_second
        load = None
        if point.traffic is not None:
            more: dict[str, Any] = {"replications": point.replications, "seed": point.seed}
            load = simulate_traffic(point.strategy, acceptance, system, point.traffic, point.server, point.objectives, **more)
            load = replace(load, simulated_requests_per_wall_second=None)
    except SpecdecError as error:
        return Refused(str(Swept(key, **inputs, tokens_per_second=0.0, speedup_over_ar=0.0)), str(error))
    gain = float(speed / plain_tokens_per_second(system))
    remarks = beyond_measured(acceptance, int(compiled.tested.max()))
    return Swept(key, **inputs, tokens_per_second=float(speed), speedup_over_ar=gain, load=load, remarks=remarks)


def grid(
    strategies: Iterable[DecodingStrategy],
    acceptance: Acceptance | Mapping[str, Acceptance],
    system: System,
    traffic: Traffic | Workload | None = None,
    server: Server = ONE_REPLICA,
    objectives: Objectives = NO_OBJECTIVES,
    *,
    rates: Sequence[float] = (),
    clients: Sequence[int] = (),
    replicas: Sequence[int] = (),
    max_batches: Sequence[int] = (),
    replications: int = 1,
    seed: int = 0,
) -> list[Point]:
    """The points of a grid, for `sweep`: every strategy with every acceptance, load, number of replicas and batch limit.

    Several models of acceptance are given by name. `rates` are requests per second: drawn traffic keeps its law, a trace is
    stretched in time. `clients`, `replicas` and `max_batches` take the place of what `server` says. All points have one `seed`:
    at one load, all strategies meet the same requests and the same acceptance draws. Raises `InputError` for axes of requests
    where there are none.
    """
    axes = {"clients": clients, "replicas": replicas, "max_batch": max_batches}
    if traffic is None and (rates or any(axes.values())):
        raise InputError("rates, clients, replicas and max_batches are for requests, and there are none: give traffic too")
    models = acceptance if isinstance(acceptance, Mapping) else {named_acceptance(acceptance): acceptance}
    loads = [at_rate(traffic, rate) for rate in rates] if traffic is not None and rates else [traffic]
    servers = [
        replace(server, **dict(zip(axes, values, strict=True)))
        for values in product(*(given or [getattr(server, name)] for name, given in axes.items()))
    ]
    return [
        Point(require_strategy(strategy), model, label, system, load, one, objectives, replications, seed)
        for (label, model), load, one, strategy in product(models.items(), loads, servers, strategies)
    ]


def named_acceptance(acceptance: Acceptance) -> str:
    """A name for a model of acceptance that has none: its mean rate."""
    return f"{acceptance.mean_rate:.3g}"


def at_rate(traffic: Traffic | Workload, rate: float) -> Traffic | Workload:
    """The same requests, so many of them a second."""
    if isinstance(traffic, Traffic):
        return replace(traffic, arrivals=Arrivals(rate, traffic.arrivals.cv if traffic.arrivals else 1.0))
    own = traffic.rate_per_second
    if own is None:
        raise InputError(f"{traffic.source}: all requests arrive at once, so they have no rate: leave rates out")
    return replace(traffic, arrival_seconds=traffic.arrival_seconds * own / Arrivals(rate).rate_per_second)


def described(value: Any) -> Any:
    """A value as JSON that differs where values differ: classes by name, dataclasses by fields, arrays by their content."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return [[described(name), described(one)] for name, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [described(one) for one in value]
    kind = type(value)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        names += ["foresight"] if isinstance(value, Acceptance) else []  # a field of no subclass
        content: Any = [[name, described(getattr(value, name))] for name in names]
    else:
        content = _pickled(value)
    return [f"{kind.__module__}.{kind.__qualname__}", content]


def _pickled(value: Any) -> str:
    """The hash of an object that is no dataclass, such as a latency source of one's own."""
    from joblib import hash as hashed

    try:
        return str(hashed(value))
    except Exception as error:
        raise InputError(
            f"{type(value).__name__} cannot be sent to a worker ({error}): make it a dataclass of values"
        ) from error


@cache
def _code(strategy: type) -> str:
    """The hash of the text of the simulator, of the core and of the strategy's package, and of what draws numbers."""
    simulator, core = Path(__file__).parents[1], Path(specdec.__file__).parent
    texts = [*sorted(simulator.rglob("*.py")), *sorted(core.glob("*.py")), *_modules_of(strategy)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in texts) + np.__version__.encode()).hexdigest()


def _modules_of(strategy: type) -> list[Path]:
    """The files of the package of a strategy, or the one file of its module."""
    folders = getattr(sys.modules.get(strategy.__module__.partition(".")[0]), "__path__", ())
    own = inspect.getsourcefile(strategy)
    alone = [Path(own)] if own is not None and Path(own).is_file() else []
    return [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))] or alone
