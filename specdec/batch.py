"""The decoding loop: rounds of one strategy for many prompts, several sequences at a time.

Rounds of all sequences begin together, and prompts are read before. So sequences that are submitted while others run share
their forwards from the first round on. In *antiphase* (MineDraft, arXiv 2603.18016), a batch is two halves, and the rounds of
each half begin together: the draft works for one half while the target verifies the other.

`Batch` runs the rounds of all sequences. `specdec.ending` decides where an output ends, and `specdec.runtime` runs the forward
passes. Neither knows a strategy.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from numbers import Integral
from typing import Any

from specdec.effects import Committed, drive
from specdec.ending import Ending, Stop, TimeLimit
from specdec.errors import InputError, LaneError, ModelError, StrategyError
from specdec.inputs import at_least_one, plain
from specdec.output import Output, Round
from specdec.pair import Pair, Turn
from specdec.processors import require_no_memory
from specdec.runtime.cache import mixes_angles, stretched_beyond
from specdec.runtime.engine import Engine
from specdec.runtime.placement import device_of
from specdec.runtime.slot import Slot
from specdec.settings import Options, Settings, resolve
from specdec.state import Costs, Facts, KnownFacts
from specdec.stopping import StopStrings
from specdec.strategy import DecodingStrategy, require_strategy
from specdec.synthetic import synthetic
from specdec.text import Prompt, Text, prompt_list, prompt_tokens
from specdec.verification import Rule


@dataclass(frozen=True)
class _Facts:
    """What a strategy may know: the costs are those of a decode that is greedy, or `sampled`."""

    pair: Pair
    sampled: bool

    def speed_ratio(self) -> float:
        return self.pair.speed_ratio()

    def costs(self) -> Costs:
        return self.pair.costs(sampled=self.sampled)


@dataclass(eq=False)
class _Half:
    """Sequences whose rounds begin together, and slots that are free for more; the whole batch where there is one half.

    Its slots are neighbours, since a forward reads all slots in between.
    """

    free: list[int]
    running: list[Output] = field(default_factory=list[Output])

    @property
    def at_rest(self) -> bool:
        """Whether no round is under way."""
        return all(output.waiting is None for output in self.running)


class Batch(Iterator[tuple[int, Round]]):
    """Many decodes, up to `batch_size` at a time. Yields every round as it ends, with the number of its prompt.

    One forward of a model serves all sequences that wait for it. A sequence that ends frees its slot for the next prompt.
    Parameters are those of `decode`. Prompt `i` is decoded with `seed + i`, as it is alone with that seed.

    `submit` adds a prompt at any moment. A batch that is made without prompts waits for these; one that begins with fewer
    prompts than `batch_size` has only so many slots. Iterating ends when nothing is left to do, and may be taken up again.

    `antiphase`  whether to decode in two halves: the draft works for one while the target verifies the other. Tokens are the
                 same. It is for strategies whose rounds draft first and verify then, and pays where a forward of the target
                 takes clearly longer for the whole batch than for half of it

    Several batches may take turns on one pair, also in threads. After a turn of another one, texts are read again.

    `outputs`  one for each prompt, in order
    `seconds`  wall seconds of decoding so far, the reading of prompts included
    """

    def __init__(
        self,
        pair: Pair,
        strategy: DecodingStrategy,
        prompts: Sequence[Prompt] | Mapping[str, Any] = (),
        *,
        batch_size: int = 8,
        antiphase: bool = False,
        stop: Stop | None = None,
        verification: str | Rule = "token",
        seed: int | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        require_strategy(strategy)
        at_least_one(batch_size=batch_size)
        if stop is not None and not callable(stop):
            raise InputError(f"stop {stop!r} is no function of the tokens: give one, or stop_strings for texts")
        if seed is not None and not isinstance(seed, Integral):
            raise InputError(f"seed {seed!r} is not possible: give an integer")
        self._said = Options.of(options)
        if settings is not None and options:
            raise InputError(f"settings are complete, and {', '.join(options)} would be ignored: give one or the other")
        prompts = prompt_list(prompts)
        self._pair, self._strategy, self._settings = pair, strategy, settings
        self._stop, self._verification = stop, verification
        self._size = min(batch_size, len(prompts) or batch_size)
        self._forced = bool(synthetic(verification))
        self._tokenizer = None if self._forced else pair.tokenizer
        self._strings = cache(partial(StopStrings, self._tokenizer))
        self._first_seed = random.randrange(2**32) if seed is None else plain(seed)
        self.outputs: list[Output] = []
        self.seconds = 0.0
        self._turn = pair.turn(drafts=strategy.drafts)
        self._halves = _halves(self._size, antiphase, self._turn, strategy)
        self._claims = 0
        self._engine: Engine | None = None
        self._queued: deque[Output] = deque()
        self._submitting = threading.Lock()
        self._ended: deque[tuple[Output, tuple[int, ...]]] = deque()
        for prompt in prompts:
            self.submit(prompt)

    def submit(self, prompt: Prompt, *, seed: int | None = None, max_new_tokens: int | None = None) -> int:
        """Add a prompt, and return its number. It joins when a slot is free and the round under way has ended.

        `seed` and `max_new_tokens` are its own; those of the batch count unless given. Prompts are admitted in the order in
        which they were submitted. Any thread may submit. One thread at a time may take steps.
        """
        tokens = Committed(prompt_tokens(self._pair, prompt))
        own = self._settings or resolve(self._pair.target, tokens.tokens, self._said)
        if max_new_tokens is not None:
            at_least_one(max_new_tokens=max_new_tokens)
            own = replace(own, max_new_tokens=plain(max_new_tokens))
        ending = self._ending(len(tokens), own)
        with self._submitting:
            number = len(self.outputs)
            if number == 0:
                device = device_of(self._pair.target)
                require_no_memory(own.sampling.logits_processor, tokens.tokens, self._pair.vocabulary, device)
            slot = Slot(self._first_seed + number if seed is None else seed, self._verification, own.sampling)
            output = Output(number, tokens, own, ending, Text(self._tokenizer), slot)
            self.outputs.append(output)
            self._queued.append(output)
        return number

    def _ending(self, prompt_tokens: int, own: Settings) -> Ending:
        """When an output ends. Raises `InputError` for a prompt that leaves no room for one, or too little."""
        limit = self._pair.context_limit
        if prompt_tokens >= limit:
            raise InputError(f"the prompt has {prompt_tokens} tokens and the context holds {limit}: shorten the prompt")
        budget, border = min(own.max_new_tokens, limit - prompt_tokens), stretched_beyond(self._pair.target)
        room = 0 if border is None else border - prompt_tokens + 1  # the last token is not read
        if 0 < room < budget and mixes_angles(self._pair.target):
            raise InputError(
                f"{self._pair.target.config.model_type} with longrope turns keys by other angles after {border} tokens, and "
                f"generate then keeps old ones: give max_new_tokens={room} at most, or a prompt of more than {border} tokens"
            )
        forced = self._forced and self._said.stop_strings is None  # what is forced has no text to stop
        texts = () if forced else own.stop_strings
        stops = (*([self._strings(texts)] if texts else ()), *([self._stop] if self._stop else ()))
        time_limit = () if own.max_time is None else (TimeLimit(own.max_time),)
        return Ending(budget, own.eos, (*stops, *time_limit))

    def __next__(self) -> tuple[int, Round]:
        while not self._ended:
            if not self.step():
                raise StopIteration
        output, new_tokens = self._ended.popleft()
        return output.number, output.report(new_tokens)

    def step(self) -> bool:
        """Run one target and one draft call for all sequences, without making texts. Returns whether work remained."""
        with self._turn:
            self._ended.clear()
            try:
                self._begin_rounds()
                if running := self._running:
                    self._work(running)
            finally:
                self._free_slots()
            return bool(self._ended or self._running)

    @property
    def _running(self) -> list[Output]:
        return [output for half in self._halves for output in half.running]

    def _begin_rounds(self) -> None:
        """Admit prompts to a half at rest, and begin a round of each of its sequences: one half in each step, both in turn."""
        for half in tuple(self._halves):
            if half.at_rest:
                self._admit(half)
                if half.running:
                    # the other half is next where rounds have one step
                    self._halves = [*(one for one in self._halves if one is not half), half]
                    self._begin_round(half)
                    return

    def _begin_round(self, half: _Half) -> None:
        begin = time.perf_counter()
        answer = self._ready().answer
        for output in half.running:
            output.start(drive(self._strategy.step(output.state), partial(answer, output.slot)))
            self._resume(output)
        self._charge(time.perf_counter() - begin)

    def _ready(self) -> Engine:
        """The engine, with the lanes as this batch left them."""
        lanes = self._turn.claim()
        if self._engine is None:
            pair = self._pair
            self._engine = Engine(*lanes, pair.context_limit, pair.draft_context_limit, self._size)
        elif self._claims != self._turn.claims:
            self._engine.resume(*lanes, [output.slot for output in self._running])
        self._claims = self._turn.claims
        return self._engine

    def _admit(self, half: _Half) -> None:
        """Admit prompts to the free slots of a half, at most its share of all sequences."""
        share = -(-(len(self._running) + len(self._queued)) // len(self._halves))
        while self._queued and half.free and len(half.running) < share:
            output = self._queued.popleft()
            output.slot.index = heapq.heappop(half.free)
            try:
                self._read(output)
            except BaseException:  # a model that failed, or Ctrl-C: the prompt waits again, and its slot is free
                heapq.heappush(half.free, output.slot.index)
                self._queued.appendleft(output)
                raise
            half.running.append(output)

    def _read(self, output: Output) -> None:
        """Read the prompt of an output into its slot. All other sequences wait."""
        try:
            self._prepare(output, _Facts(self._pair, not output.slot.sampling.greedy))
        except (LaneError, ModelError) as error:  # the draft was lost while it was timed; a target that fails does so again
            if self._pair.draft is None:
                raise
            self._ready().lose_draft(str(error))
            self._prepare(output, KnownFacts(1.0))
        output.ending.start()
        self._ready().begin(output.slot, output.prompt.tokens)
        self._charge(output.slot.statistics.prefill_seconds)

    def _prepare(self, output: Output, facts: Facts) -> None:
        """Give an output its strategy and its first state."""
        output.strategy = self._strategy = self._strategy.resolved(facts)
        output.state = self._strategy.init(output.prompt, facts)

    def _work(self, running: Sequence[Output]) -> None:
        """Let both lanes work once, and resume all rounds that waited."""
        begin = time.perf_counter()
        engine = self._ready()
        waiting = [output for output in running if output.waiting is not None]
        engine.work([output.waiting for output in waiting if output.waiting is not None])
        for output in waiting:
            self._resume(output)
        self._charge(time.perf_counter() - begin)

    def _free_slots(self) -> None:
        """Let outputs that are finished leave their slots."""
        for half in self._halves:
            for output in [output for output in half.running if output.finished_by is not None]:
                if self._size == 1:  # a forward of several sequences takes longer than the costs say of one
                    self._pair.follow(output.slot.statistics, sampled=not output.slot.sampling.greedy)
                half.running.remove(output)
                heapq.heappush(half.free, output.slot.index)

    def _resume(self, output: Output) -> None:
        """Run a round until it waits again or ends."""
        assert output.round is not None
        output.waiting = None
        try:
            output.waiting = next(output.round)
        except StopIteration as finished:
            self._ended.append((output, output.end(finished.value)))
            return
        if len(self._halves) > 1 and output.waiting.scores and (output.waiting.drafts or output.waiting.forks):
            name = self._strategy.name
            raise StrategyError(f"{name} drafts while it verifies, and needs no antiphase: leave it out, or use speculative")

    def _charge(self, seconds: float) -> None:
        """Add wall seconds to the batch, and in full to each of its sequences."""
        self.seconds += seconds
        for output in self._running:
            output.slot.statistics.decode_seconds += seconds


def _halves(size: int, antiphase: bool, turn: Turn, strategy: DecodingStrategy) -> list[_Half]:
    """The slots of a batch, as one half or two. Raises `InputError` where two make no sense."""
    slots = list(range(size))
    if not antiphase:
        return [_Half(slots)]
    if size < 2:
        raise InputError("antiphase needs two sequences at least: give a batch_size of 2 or more, and as many prompts")
    if not strategy.drafts:
        raise InputError(f"antiphase hides the time of a draft, and {strategy.name} has none: leave antiphase out")
    with turn as (_, draft):
        in_turn = draft is not None and not draft.overlaps
    if in_turn:
        raise InputError("antiphase needs a draft that works beside the target: give lane 'thread' or 'process'")
    middle = -(-size // 2)
    return [_Half(slots[:middle]), _Half(slots[middle:])]
