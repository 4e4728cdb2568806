"""Finds what installed packages bring: strategies, verification rules, checks and commands, by entry point.

A package registers an object under a name in a group, such as `specdec.rules`. The built-in ones are registered the same way. A
plug-in that cannot be used is refused by name when it is asked for; all others go on working. The name of a built-in one is its
own: another plug-in that takes it is left out, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, Generic, TypeVar

from specdec.clashes import OURS, clash
from specdec.errors import InputError
from specdec.inputs import did_you_mean

T = TypeVar("T")


@cache
def entry_points(*, group: str) -> EntryPoints:
    """What is installed, read once in a process."""
    return metadata.entry_points(group=group)


@dataclass(frozen=True)
class Plugins(Generic[T]):
    """The plug-ins of one group.

    `group`   entry-point group
    `kind`    what one is called in messages
    `needed`  what one must be, for messages; `fits(name, object)` tells whether it is
    `first`   the names that are listed first
    """

    group: str
    kind: str
    needed: str
    fits: Callable[[str, Any], bool]
    first: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Every registered name: the `first` ones, then the others in order."""
        return self._in_order(entry_points(group=self.group).names)

    def find(self, name: str) -> T:
        """The object of that name. An `InputError` says what is wrong with a name that is unknown or cannot be used."""
        entries = entry_points(group=self.group).select(name=name)
        if not entries:
            known = self.names()
            hint = did_you_mean(name, known)
            raise InputError(f"unknown {self.kind} {name!r}: {f'{hint} I' if hint else 'i'}nstalled are {', '.join(known)}")
        kept, taken = self._chosen(name, entries)
        if taken:
            _left_out(taken)
        return self._loaded(name, kept)

    def is_built_in(self, name: str) -> bool:
        """Whether the object of that name came with this distribution."""
        return any(map(_is_ours, entry_points(group=self.group).select(name=name)))

    def sorted_out(self) -> tuple[dict[str, T], dict[str, str]]:
        """The objects that can be used, by name, and what is wrong with those that were left out."""
        found: dict[str, T] = {}
        faults: dict[str, str] = {}
        every = entry_points(group=self.group)
        for name in self._in_order(every.names):
            try:
                kept, taken = self._chosen(name, every.select(name=name))
                if taken:
                    faults[name] = taken
                found[name] = self._loaded(name, kept)
            except InputError as error:
                faults[name] = str(error)
        return found, faults

    def usable(self) -> dict[str, T]:
        """The objects that can be used, by name. A `RuntimeWarning` names each other one."""
        found, faults = self.sorted_out()
        for fault in dict.fromkeys(faults.values()):
            _left_out(fault)
        return found

    def _in_order(self, names: Collection[str]) -> list[str]:
        return [*(name for name in self.first if name in names), *sorted({*names} - {*self.first})]

    def _chosen(self, name: str, entries: Iterable[EntryPoint]) -> tuple[EntryPoint, str]:
        """The entry of that name, and what is said of others that take it: ours is kept, and two of strangers are refused."""
        sources = {entry.value: entry for entry in entries}
        if len(sources) == 1:
            return next(iter(sources.values())), ""
        ours = [entry for entry in sources.values() if _is_ours(entry)]
        if len(ours) != 1:
            raise InputError(
                f"{name} of {self.group} is registered more than once, by {' and by '.join(map(_source, sources.values()))}: "
                "uninstall all packages but one"
            )
        others = " and ".join(_source(entry) for entry in sources.values() if entry is not ours[0])
        return ours[0], f"{others} takes the name of the built-in {self.kind} {name}: give it a name of its own"

    def _loaded(self, name: str, entry: EntryPoint) -> T:
        try:
            thing = entry.load()
        except Exception as error:  # a module of a stranger's may raise anything when it is imported
            if _is_ours(entry) and (found := clash(entry.module.partition(".")[0])):
                raise InputError(found) from error
            raise InputError(
                f"{name} of {self.group} cannot be loaded from {_source(entry)} ({type(error).__name__}: {error}): "
                "reinstall the package that brings it"
            ) from error
        if not self.fits(name, thing):
            raise InputError(f"{name} of {self.group} is {thing!r}, no {self.needed}: correct {_source(entry)}")
        return thing


def _left_out(fault: str) -> None:
    warnings.warn(f"left out: {fault}", RuntimeWarning, stacklevel=4)


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == OURS


def _source(entry: EntryPoint) -> str:
    return entry.value if entry.dist is None else f"{entry.value} of the package {entry.dist.name}"
