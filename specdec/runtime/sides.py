"""The effects of many sequences become requests to the two lanes, and the lanes' answers become guesses and scores.

`DraftSide` sends requests and collects answers later, so that the target can work in between. `TargetSide` waits for its lane.
Neither knows a strategy.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from specdec.effects import Both, Draft, Effect, Fork, Guess, Known, Race, Score, Scores
from specdec.errors import LaneError, ModelError, PairError, StrategyError
from specdec.runtime.lane import Lane, Wait
from specdec.runtime.messages import ARGMAX, Drafting, DraftRequest, ScoreRequest, Scoring
from specdec.runtime.slot import Slot

A = TypeVar("A")
R = TypeVar("R", DraftRequest, ScoreRequest)
T = TypeVar("T")


@dataclass(slots=True)
class AskedDraft:
    """A draft that a sequence waits for. Its `answer` stays empty when the draft could not make any token."""

    slot: Slot
    effect: Draft
    racing: bool = False
    answer: Guess = Guess.empty


@dataclass(slots=True)
class AskedScore:
    """A score that a sequence waits for, and its `answer` once the target has worked."""

    slot: Slot
    effect: Score
    answer: Scores | None = None


@dataclass(slots=True)
class AskedBoth:
    """Two effects that a sequence waits for at once."""

    left: Asked
    right: Asked

    @property
    def answer(self) -> tuple[Any, Any]:
        return self.left.answer, self.right.answer


Asked: TypeAlias = AskedDraft | AskedScore | AskedBoth


@dataclass(slots=True)
class Waiting:
    """All that the sequence in `slot` waits for until both lanes have worked once."""

    slot: Slot
    drafts: list[AskedDraft] = field(default_factory=list[AskedDraft])
    scores: list[AskedScore] = field(default_factory=list[AskedScore])

    def ask(self, effect: Effect[Any]) -> Asked:
        """Wait for an effect too. Raises `StrategyError` for an effect that no lane can answer."""
        match effect:
            case Score():
                self.scores.append(asked := AskedScore(self.slot, effect))
                return asked
            case Draft():
                self.drafts.append(asked := AskedDraft(self.slot, effect))
                return asked
            case Both(left, right):
                return AskedBoth(self.ask(left), self.ask(right))
            case Race(left, right):
                raced = self.ask(left)
                self.drafts.append(asked := AskedDraft(self.slot, right, racing=True))
                return AskedBoth(raced, asked)
            case Fork():
                raise StrategyError(
                    "the runtime cannot answer Fork yet: prove the strategy by `specdec.law`, and decode with one that drafts "
                    "a single continuation"
                )
            case _:
                name = type(effect).__name__
                raise StrategyError(f"the runtime cannot answer {name} here: ask Draft, Score, Both or Race, or Verify alone")


def answered_later(slot: Slot, effect: Effect[Any]) -> Generator[Waiting, None, Any]:
    """Yields once what the sequence waits for, and returns the answer to `effect` when resumed after the lanes' work."""
    waiting = Waiting(slot)
    asked = waiting.ask(effect)
    yield waiting
    return asked.answer


Sent: TypeAlias = list[tuple[list[tuple[AskedDraft, DraftRequest]], Wait | None]]
"""Groups of drafts under way, each with the function that waits for it (`None` when the lane was lost)."""


class DraftSide:
    """The draft's lane, if there is one. Once the lane is lost, decoding goes on without it, and `failure` says why.

    A draft whose context the model cannot hold is not asked for, and is no failure.
    """

    def __init__(self, lane: Lane | None, context_limit: int) -> None:
        self._context_limit = context_limit
        self.failure = ""
        self.use(lane)

    def use(self, lane: Lane | None) -> None:
        """Work with another lane."""
        self._lane = lane
        self.overlaps = lane is not None and lane.overlaps

    def begin(self, slot: Slot, prompt: Sequence[int], size: int) -> Wait | None:
        """Start a sequence (`Worker.begin`). A prompt that leaves no room for a draft is not read."""
        return self.submit("begin", slot.sampling, prompt if len(prompt) < self._context_limit else (), slot.index, size)

    def submit(self, method: str, *arguments: Any) -> Wait | None:
        """Start a request to the lane; `None` without a lane."""
        return None if self._lane is None else self._unless_lost(self._lane.submit, method, *arguments)

    def wait(self, wait: Wait | None) -> Any:
        """The answer to a request; `None` without one."""
        return None if wait is None else self._unless_lost(wait)

    def send(self, drafts: Sequence[AskedDraft]) -> Sent:
        """Start all drafts, in as few requests as their slots allow."""
        requests = [(asked, request) for asked in drafts if (request := self._request(asked)) is not None]
        return [(group, self.submit("draft", [request for _, request in group])) for group in groups(requests)]

    def collect(self, sent: Sent, target_seconds: float) -> float:
        """Wait for all drafts, and answer them. Returns the seconds that the draft worked.

        The target has answered, `target_seconds` after it began, so racing drafts end.
        """
        if self._lane is not None and any(request.racing for group, _ in sent for _, request in group):
            self._lane.target_answered(target_seconds)
        seconds = 0.0
        for group, wait in sent:
            draftings: list[Drafting] | None = self.wait(wait)
            if draftings is not None:
                for (asked, request), drafting in zip(group, draftings, strict=True):
                    self._answer(asked, request, drafting)
                seconds += max([drafting.busy_seconds for drafting in draftings])
        return seconds

    def _request(self, asked: AskedDraft) -> DraftRequest | None:
        """The request to the lane; `None` where it cannot answer."""
        if self._lane is None:
            raise PairError("this strategy drafts, and no draft model was given: give one, or use a strategy without")
        effect = asked.effect
        context = effect.committed.tokens + effect.after.tokens
        length = min(effect.length, self._context_limit - len(context))
        if length < 1 or self.failure:
            return None
        slot = asked.slot
        return DraftRequest(slot.index, context, length, slot.uniforms(length), effect.stop, asked.racing)

    def _answer(self, asked: AskedDraft, request: DraftRequest, drafting: Drafting) -> None:
        if drafting.failure:
            self._give_up(drafting.failure)
            return
        asked.slot.give_back(request.uniforms[len(drafting.tokens) :])
        statistics = asked.slot.statistics
        statistics.draft_busy_seconds += drafting.busy_seconds
        statistics.drafted_tokens += len(drafting.tokens)
        q = drafting.q
        if isinstance(q, Tensor) and q.is_cpu:
            q = q.numpy()
        rows = [ARGMAX] * len(drafting.tokens) if q is None else q
        asked.answer = Guess(tuple(map(Known, drafting.tokens, rows)))

    def _unless_lost(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """What `call` returns; `None` when the lane is lost, before or now."""
        if self.failure:
            return None
        try:
            return call(*arguments)
        except (LaneError, ModelError) as error:
            self._give_up(str(error))
            return None

    def _give_up(self, failure: str) -> None:
        """Go on autoregressively: nothing is drafted any more, and what is committed stays."""
        if not self.failure:
            self.failure = failure
            warnings.warn(f"decoding goes on without the draft: {failure}", RuntimeWarning, stacklevel=2)


class TargetSide:
    """The target's lane, which works in the caller's thread."""

    def __init__(self, lane: Lane, context_limit: int) -> None:
        self._context_limit = context_limit
        self.use(lane)

    def use(self, lane: Lane) -> None:
        """Work with another lane."""
        self._lane = lane

    def begin(self, slot: Slot, prompt: Sequence[int], size: int) -> None:
        """Start a sequence (`Worker.begin`)."""
        self._lane.submit("begin", slot.sampling, prompt, slot.index, size)()

    def score(self, scores: Sequence[AskedScore]) -> float:
        """Score all windows, in as few forwards as their slots allow, and answer them. Returns the seconds of the forwards."""
        seconds = 0.0
        for group in groups([(asked, self._request(asked)) for asked in scores]):
            scorings: list[Scoring] = self._lane.submit("score", [request for _, request in group])()
            for (asked, _), scoring in zip(group, scorings, strict=True):
                asked.slot.statistics.count_forward(scoring.positions, scoring.busy_seconds)
                asked.answer = Scores(asked.effect.committed, asked.effect.guess, scoring)
            seconds += scorings[0].busy_seconds
        return seconds

    def _request(self, asked: AskedScore) -> ScoreRequest:
        committed = asked.effect.committed.tokens
        guessed = asked.effect.guess.tokens[: max(0, self._context_limit - len(committed))]
        return ScoreRequest(asked.slot.index, committed + guessed, len(guessed) + 1)


def groups(asked: Sequence[tuple[A, R]]) -> list[list[tuple[A, R]]]:
    """Split requests into groups, in order, so that no group asks a slot twice."""
    if len({request.slot for _, request in asked}) == len(asked):
        return [list(asked)] if asked else []
    found: list[list[tuple[A, R]]] = []
    times: Counter[int] = Counter()
    for one, request in asked:
        number = times[request.slot]
        if number == len(found):
            found.append([])
        found[number].append((one, request))
        times[request.slot] += 1
    return found
