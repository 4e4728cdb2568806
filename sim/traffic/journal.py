"""The log of iterations, of bounded size: of a very long run, it holds a random one of every 2, 4, 8, ... iterations.

When the log is full, of each two rows that follow one another one stays, by a fair draw. So shares, means and percentiles of
rows are those of all iterations, but for a sampling error of about 0.1 %. The draws are not those of jitter: a run is the same,
however long its log may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sim.setup.arrays import Floats
from sim.traffic.state import LOG, Array, Fleet, Limits, inlined, jit

if TYPE_CHECKING:
    from typing import Self

SHORTEST, LONGEST = 2**10, 2**20
"""Rows at first, and at most."""
WRITTEN, EACH, SEEN, CHOSEN, RANDOM, MOST = range(6)


class Journal(NamedTuple):
    """The log so far.

    `ends`    when iterations end
    `rows`    shape (rows, columns of `LOG`)
    `state`   rows that are written; iterations that each of them stands for; iterations seen since that changed; which one of
              the next `EACH` is written; the last random number; rows at most
    """

    ends: Array
    rows: Array
    state: Array

    @classmethod
    def empty(cls) -> Self:
        """An empty log."""
        rows = min(SHORTEST, LONGEST)
        return cls(np.empty(rows), np.empty((rows, len(LOG)), np.float32), np.array([0, 1, 0, 0, 1, LONGEST]))

    def larger(self) -> Self:
        """The same with room for twice as many rows."""
        more = [np.concatenate((part, np.empty_like(part))) for part in (self.ends, self.rows)]
        return self._replace(ends=more[0], rows=more[1])

    def written(self) -> tuple[Floats, Any, int]:
        """The ends and rows that are written, and how many iterations each row stands for."""
        count = int(self.state[WRITTEN])
        return self.ends[:count].copy(), np.ascontiguousarray(self.rows[:count].T), int(self.state[EACH])


@inlined
def is_full(journal: Journal) -> bool:
    """Whether it needs more room."""
    return journal.state[WRITTEN] == len(journal.ends)


@jit
def drawn(state: Array, count: int) -> int:
    """A random number below `count`, a power of two (Knuth's linear congruential generator)."""
    state[RANDOM] = state[RANDOM] * 6364136223846793005 + 1442695040888963407
    return (state[RANDOM] >> 33) & (count - 1)


@jit
def thin(journal: Journal) -> None:
    """Keep one row of each two."""
    ends, rows, state = journal
    for i in range(len(ends) // 2):
        kept = 2 * i + drawn(state, 2)
        ends[i] = ends[kept]
        for column in range(rows.shape[1]):
            rows[i, column] = rows[kept, column]
    state[WRITTEN], state[EACH], state[SEEN] = len(ends) // 2, 2 * state[EACH], 0


@inlined
def record(
    journal: Journal,
    limits: Limits,
    fleet: Fleet,
    replica: int,
    seconds: float,
    target: float,
    draft: float,
    deliveries: int,
    rows: int,
    fork_rows: int,
    held: int,
) -> None:
    """Write the iteration that a replica has begun, if it is one of those that are kept."""
    state = journal.state
    if state[EACH] > 1:
        place = state[SEEN] & (state[EACH] - 1)
        if place == 0:
            state[CHOSEN] = drawn(state, state[EACH])
        state[SEEN] += 1
        if place != state[CHOSEN]:
            return
    line = state[WRITTEN]
    journal.ends[line] = fleet.ends[replica]
    written = journal.rows
    written[line, 0], written[line, 1], written[line, 2], written[line, 3] = seconds, target, draft, deliveries
    written[line, 4], written[line, 5] = fleet.sequences[replica], limits.blocks - fleet.free[replica]
    written[line, 6], written[line, 7], written[line, 8] = fleet.queued[replica], rows, fork_rows
    written[line, 9] = held
    state[WRITTEN] += 1
    if state[WRITTEN] == state[MOST]:
        thin(journal)
