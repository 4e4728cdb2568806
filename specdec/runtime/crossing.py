"""What crosses to another process: a model in a file, and memory that both processes see. It knows no lane.

Both lie in files without a name: memory that is bounded by what the machine has, and not by `/dev/shm`, which has 64 MB in a
container of Docker. Such a file ends with the last process that holds it, so nothing can be left behind.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import types
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from specdec.errors import PairError

MAIN = ("__main__", "__mp_main__")

ALIGNED = 64
"""Bytes before the rows. The first of them hold the number of the last answered request."""


class CannotCross(PairError):
    """Something that no other process can be given. In this process it works."""


def rows_and_answered(
    descriptor: int, rows: int, vocabulary: int, dtype: torch.dtype
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Views of a shared file: rows of `q`, and a single number. Both sides call it; pages are made when they are written."""
    kind = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
    size = ALIGNED + rows * vocabulary * kind.itemsize
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    shared = mmap.mmap(descriptor, size)
    return np.frombuffer(shared, kind, offset=ALIGNED).reshape(rows, vocabulary), np.frombuffer(shared, np.int64, 1)


def send(value: Any, file: IO[bytes]) -> None:
    """Write `value`, which may hold tensors. Raises `CannotCross` before any tensor is written, in one line."""
    module: Any = types.SimpleNamespace(Pickler=_Pickler, __name__="pickle")
    try:
        torch.save(value, file, pickle_module=module)
    except OSError as error:
        raise CannotCross(f"the draft process cannot be given the draft ({error}): use lane='thread' or 'inline'") from error
    except CannotCross:
        raise
    except Exception as error:  # pickle, torch and the classes of a model all have their own
        reason = " ".join(str(error).split())[:160]
        raise CannotCross(f"the draft cannot be sent to a process ({reason}): use lane='thread' or 'inline'") from error
    file.seek(0)


def received(file: IO[bytes]) -> Any:
    """What `send` wrote."""
    return torch.load(file, weights_only=False)


class _Pickler(pickle.Pickler):
    """Refuses classes and functions that another process cannot import, which pickle itself finds out too late."""

    def reducer_override(self, obj: Any, /) -> Any:
        if isinstance(obj, type | types.FunctionType):
            if not _importable(obj.__module__):
                raise CannotCross(
                    f"the draft holds {obj.__module__}.{obj.__qualname__}, which no other process can import: "
                    "move it to a module of its own, or use lane='thread' or 'inline'"
                )
        elif isinstance(obj, types.MethodType) and not _is_own(obj):
            return _bound, (obj.__func__, obj.__self__)
        return NotImplemented


def _importable(module: str) -> bool:
    """Whether a process with this one's search path finds the module. It need not be one that was imported from there."""
    if module in MAIN:
        return False
    path: Any = None
    for end in [at for at, letter in enumerate(module + ".") if letter == "."]:
        asked = (finder.find_spec(module[:end], path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        found = next((spec for spec in asked if spec is not None), None)
        if found is None:
            return False
        path = found.submodule_search_locations
    return True


def _is_own(method: types.MethodType) -> bool:
    """Whether a method is its object's own by its name, as pickle assumes: not so for one that was bound by hand."""
    name = getattr(method.__func__, "__name__", None)
    return name is not None and getattr(type(method.__self__), name, None) is method.__func__


def _bound(function: Callable[..., Any], owner: Any) -> types.MethodType:
    return types.MethodType(function, owner)
