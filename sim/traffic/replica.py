"""One replica while it runs: a queue, a batch, and the work of each iteration as totals over the batch.

`sim.traffic.serving` says what is modelled. A request that joins the batch adds its rounds to the totals of the iterations to
come. `advance` computes the seconds of several iterations at once, by a `Cost`. Strategies and latencies are not known here.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf

import numpy as np

from sim.setup.arrays import Floats
from sim.traffic.paths import Paths
from sim.traffic.record import Cost, Iterations, Server, Work


class Replica:
    """A queue and a batch. The last iteration ended at `clock` seconds; the next one has the number `_now`."""

    def __init__(self, server: Server, paths: Paths, cost: Cost, longest_jump: int) -> None:
        self._server, self._paths, self._cost, self._longest_jump = server, paths, cost, longest_jump
        self._kv_tokens = inf if server.kv_tokens is None else server.kv_tokens
        self._chunk = server.prefill_chunk or int(paths.prompt_tokens.sum()) + 1
        self.clock = self._last_seconds = 0.0
        self._now = self._end_of_work = 0
        self._queue: deque[int] = deque()
        self._running: list[tuple[int, int]] = []  # a heap of (last iteration, KV tokens)
        self._held = 0
        self._prefill_at = self._prefill_used = 0  # the last iteration with prompt tokens, and how many
        self._joined: list[tuple[int, float, int, int]] = []  # request, clock, iterations of its first and last tokens
        room = 1024 + paths.offsets[-1] // (4 * server.replicas)  # iterations, estimated: `_reserve` adds what is missing
        self._totals = np.zeros((len(paths.totals), room), np.int64)
        self._drafts = np.zeros((len(paths.draft_steps), room), np.int64)
        self._prefill = np.zeros(room, np.int64)
        self._times = np.zeros((4, room))  # end, all, target and draft seconds

    @property
    def requests(self) -> int:
        """Requests that wait or decode here during the last iteration, so at any arrival since it began."""
        self._release(self._now - 1)
        return len(self._queue) + len(self._running)

    def enqueue(self, request: int, arrival: float) -> None:
        """Take a request that arrives now, after `advance(arrival)`."""
        self.clock = max(self.clock, arrival)
        self._queue.append(request)

    def advance(self, until: float) -> None:
        """Run until an iteration ends at or after `until` seconds, or nothing is left to do."""
        while self.clock < until:
            self._release(self._now)
            self._admit()
            if self._now == self._end_of_work:
                return
            self._jump(until)

    def _release(self, before: int) -> None:
        """Free the slots of sequences whose last iteration comes before iteration `before`."""
        while self._running and self._running[0][0] < before:
            self._held -= heappop(self._running)[1]

    def _admit(self) -> None:
        """Give slots to queued requests in order of arrival, as long as there are slots and memory for the next one."""
        while self._queue and len(self._running) < self._server.max_batch:
            tokens = int(self._paths.kv_tokens[self._queue[0]])
            if self._held + tokens > self._kv_tokens:
                return
            self._held += tokens
            request = self._queue.popleft()
            first = self._book_prompt(int(self._paths.prompt_tokens[request]))
            last = self._book_rounds(request, first)
            heappush(self._running, (last, tokens))
            self._joined.append((request, self.clock, first + int(self._paths.first_commit[request]), last))

    def _book_prompt(self, tokens: int) -> int:
        """Read a prompt chunk by chunk, after the prompts booked before; the iteration of its last chunk.

        An iteration reads at most a chunk, of one prompt or of several. Prompt B of 5 tokens after prompt A of 6, in chunks of
        4, and where their rounds (r) begin:

            iteration    1     2     3
            prompt       AAAA  AABB  BBB
            A's rounds         r     r    ...
            B's rounds               r    ...

        So the last chunk of a prompt shares its iteration with the first round of its request.
        """
        if self._prefill_at < self._now:
            self._prefill_at, self._prefill_used = self._now, 0
        first, tokens = self._prefill_at, self._prefill_used + tokens
        last = first + max(tokens - 1, 0) // self._chunk
        self._reserve(last + 1)
        self._prefill[first:last] = self._chunk
        self._prefill[last] = self._prefill_used = tokens - (last - first) * self._chunk
        self._prefill_at = last
        return last

    def _book_rounds(self, request: int, first: int) -> int:
        """Add the path of a request to the totals from iteration `first` on; the iteration of its last round."""
        path = slice(self._paths.offsets[request], self._paths.offsets[request + 1])
        end = first + path.stop - path.start
        self._reserve(end)
        self._totals[:, first:end] += self._paths.totals[:, path]
        drafts = self._drafts[:, first:end]
        np.maximum(drafts, self._paths.draft_steps[:, path], out=drafts)
        self._end_of_work = max(self._end_of_work, end)
        return end - 1

    def _reserve(self, iterations: int) -> None:
        """Room for so many iterations."""
        if iterations > len(self._prefill):
            more = max(iterations, 2 * len(self._prefill)) - len(self._prefill)
            self._prefill = np.pad(self._prefill, (0, more))
            self._totals = np.pad(self._totals, ((0, 0), (0, more)))
            self._drafts = np.pad(self._drafts, ((0, 0), (0, more)))
            self._times = np.pad(self._times, ((0, 0), (0, more)))

    def _jump(self, until: float) -> None:
        """Run iterations until the clock reaches `until`, or until a slot becomes free that a queued request waits for.

        The count is an estimate; if it was too small, `advance` calls again.
        """
        stop = self._horizon(until)
        self._keep(until, *self._cost(self._work(self._now, stop)))

    def _horizon(self, until: float) -> int:
        """The iteration before which to stop: the totals up to there are known, and most of it will be kept."""
        stop = min(self._end_of_work, self._now + self._longest_jump)
        if self._queue:
            stop = min(stop, self._running[0][0] + 1)
        if self._last_seconds:  # iterations last about as long as the one before
            stop = self._now + int(min(stop - self._now, 2 + (until - self.clock) / self._last_seconds))
        return stop

    def _work(self, start: int, stop: int) -> Work:
        totals = self._totals[:, start:stop]
        return Work(start, totals[0], totals[1], self._prefill[start:stop], totals[2:], self._drafts[:, start:stop])

    def _keep(self, until: float, seconds: Floats, target: Floats, draft: Floats) -> None:
        """Move the clock over these iterations, up to the first one that ends at or after `until`."""
        ends = seconds.copy()
        ends[0] += self.clock
        ends.cumsum(out=ends)
        kept = min(int(ends.searchsorted(until)) + 1, len(ends))
        for line, times in zip(self._times, (ends, seconds, target, draft), strict=True):
            line[self._now : self._now + kept] = times[:kept]
        self._now += kept
        self.clock, self._last_seconds = float(ends[kept - 1]), float(seconds[kept - 1])

    def finished(self, admitted: Floats, first_token: Floats, finish: Floats) -> Iterations:
        """The record; the times in seconds of the requests served here are written to the three arrays, shape (n,)."""
        ends, seconds, target, draft = self._times[:, : self._now]
        requests, first, last = np.array([(one[0], *one[2:]) for one in self._joined], np.int64).reshape(-1, 3).T
        admitted[requests] = [clock for _, clock, _, _ in self._joined]
        first_token[requests], finish[requests] = ends[first], ends[last]
        fresh = np.bincount(first, minlength=self._now)
        return Iterations(ends, seconds, self._totals[0, : self._now] - fresh, target, draft)
