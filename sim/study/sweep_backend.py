"""Where a sweep works: the cores of this machine, or a cluster of dask or ray, through joblib's backends."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from threading import Thread
from time import sleep
from typing import Any, Literal, TypeAlias

from specdec.errors import InputError

BackendName: TypeAlias = Literal["loky", "dask", "ray"]


@contextmanager
def backend(name: BackendName, workers: int | None = None, cluster: str | None = None) -> Generator[None]:
    """Let `sweep` work on this machine (`loky`), or on a cluster: at an address, or a local one of so many `workers`.

    Raises `InputError` for an address without a cluster, one where no cluster answers, and a package that is not installed.
    """
    from joblib import parallel_config

    if name == "loky" and cluster is not None:
        raise InputError(f"cluster {cluster} is for dask or ray: give --backend too")
    with ExitStack() as stack:
        if name == "dask":
            _dask(stack, workers, cluster)
        elif name == "ray":
            _ray(stack, workers, cluster)
        stack.enter_context(parallel_config(name))
        yield


def _dask(stack: ExitStack, workers: int | None, cluster: str | None) -> None:
    distributed = _imported("distributed", "dask")
    if cluster is not None:
        try:
            stack.enter_context(distributed.Client(cluster, timeout=10))
        except (OSError, ValueError) as error:
            raise InputError(f"no dask scheduler answers at {cluster} ({error}): give its address, tcp://HOST:8786") from error
        return
    local = {"n_workers": workers or os.cpu_count(), "threads_per_worker": 1, "dashboard_address": None}
    stack.enter_context(distributed.Client(stack.enter_context(distributed.LocalCluster(**local))))


def _ray(stack: ExitStack, workers: int | None, cluster: str | None) -> None:
    ray = _imported("ray", "ray")
    where: dict[str, Any] = {"num_cpus": workers or os.cpu_count()} if cluster is None else {"address": cluster}
    try:
        ray.init(**where, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"no ray cluster answers at {cluster} ({error}): give its address, or auto") from error
    stack.callback(ray.shutdown)
    import_module("ray.util.joblib").register_ray()


def _imported(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{name} is not installed ({error}): pip install 'pearl-specdec[{name}]'") from error


def end_with(parent: int) -> None:
    """Let this worker end soon after the process that started it was killed, instead of working or waiting on for nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(0.2)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
