"""The effects of many sequences become requests to the two lanes, and the lanes' answers become guesses and scores.

`DraftSide` sends requests and collects answers later, so that the target can work in between. `TargetSide` waits for its lane.
Neither knows a strategy.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeAlias, TypeVar

from specdec.effects import Both, Draft, Effect, Fork, Forks, Guess, Race, Score, Scores
from specdec.errors import LaneError, ModelError, PairError, StrategyError
from specdec.runtime.lane import Lane, Wait
from specdec.runtime.messages import Drafting, DraftRequest, Forking, ForkRequest, ScoreRequest, Scoring
from specdec.runtime.prepared import NO_FORKS, Late, PreparedForks, as_read, guess_of
from specdec.runtime.slot import Slot
from specdec.verification import Row

A = TypeVar("A")
R = TypeVar("R", DraftRequest, ForkRequest, ScoreRequest)
T = TypeVar("T")


@dataclass(slots=True)
class AskedDraft:
    """A draft that a sequence waits for. Its `answer` stays empty when the draft could not make any token."""

    slot: Slot
    effect: Draft
    racing: bool = False
    answer: Guess = Guess.empty


@dataclass(slots=True)
class AskedFork:
    """A fork that a sequence waits for. Its `answer` stays without branches when the draft could not make any."""

    slot: Slot
    effect: Fork
    answer: Forks = NO_FORKS


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


Asked: TypeAlias = AskedDraft | AskedFork | AskedScore | AskedBoth


@dataclass(slots=True)
class Waiting:
    """All that the sequence in `slot` waits for until both lanes have worked once."""

    slot: Slot
    drafts: list[AskedDraft] = field(default_factory=list[AskedDraft])
    forks: list[AskedFork] = field(default_factory=list[AskedFork])
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
                self.forks.append(asked := AskedFork(self.slot, effect))
                return asked
            case _:
                name = type(effect).__name__
                known = "Draft, Fork, Score, Both or Race, or Verify alone"
                raise StrategyError(f"the runtime cannot answer {name} here: ask {known}")


def answered_later(slot: Slot, effect: Effect[Any]) -> Generator[Waiting, None, Any]:
    """Yields once what the sequence waits for, and returns the answer to `effect` when resumed after the lanes' work."""
    waiting = Waiting(slot)
    asked = waiting.ask(effect)
    yield waiting
    return asked.answer


AskedOfDraft: TypeAlias = tuple[AskedDraft, DraftRequest] | tuple[AskedFork, ForkRequest]
Sent: TypeAlias = list[tuple[Sequence[AskedOfDraft], Wait | None]]
"""Groups of drafts and forks under way, each with the function that waits for it (`None` when the lane was lost)."""


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
        """Start a sequence (`Drafter.begin`). A prompt that leaves no room for a draft is not read."""
        return self.submit("begin", slot.sampling, prompt if len(prompt) < self._context_limit else (), slot.index, size)

    def submit(self, method: str, *arguments: Any) -> Wait | None:
        """Start a request to the lane; `None` without a lane."""
        return None if self._lane is None else self._unless_lost(self._lane.submit, method, *arguments)

    def wait(self, wait: Wait | None) -> Any:
        """The answer to a request; `None` without one."""
        return None if wait is None else self._unless_lost(wait)

    def send(self, drafts: Sequence[AskedDraft], forks: Sequence[AskedFork] = ()) -> Sent:
        """Start all drafts, then all forks, in as few requests as their slots allow."""
        drafting = groups([(asked, request) for asked in drafts if (request := self._request(asked)) is not None])
        forking = groups([(asked, request) for asked in forks if (request := self._fork_request(asked)) is not None])
        sent: Sent = [(group, self.submit("draft", [request for _, request in group])) for group in drafting]
        return sent + [(group, self.submit("fork", [request for _, request in group])) for group in forking]

    def collect(self, sent: Sent, target_seconds: float) -> float:
        """Wait for all drafts and forks, and answer them. Returns the seconds that the draft worked.

        The target has answered, `target_seconds` after it began, so racing drafts end.
        """
        if self._lane is not None and any(
            asked.racing for group, _ in sent for asked, _ in group if isinstance(asked, AskedDraft)
        ):
            self._lane.target_answered(target_seconds)
        seconds = 0.0
        for group, wait in sent:
            answers: list[Any] | None = self.wait(wait)
            if answers is not None:
                for (asked, request), answer in zip(group, answers, strict=True):
                    self._answered(asked, request, answer)
                seconds += max([answer.busy_seconds for answer in answers])
        return seconds

    def _answered(self, asked: AskedDraft | AskedFork, request: DraftRequest | ForkRequest, answer: Any) -> None:
        """Take the lane's answer to one request."""
        if answer.failure:
            self.give_up(answer.failure)
            return
        if isinstance(asked, AskedFork):
            self._answer_fork(asked, answer)
        else:
            asked.slot.give_back(request.uniforms[len(answer.tokens) :])
            asked.slot.statistics.drafted_tokens += len(answer.tokens)
            asked.slot.statistics.draft_steps += len(answer.tokens)
            asked.slot.statistics.count_draft(0, 0, len(answer.tokens), answer.busy_seconds)
            asked.slot.written = answer.certain
            asked.answer = Guess.certain(answer.tokens) if answer.certain else guess_of(answer.tokens, answer.q)

    def _request(self, asked: AskedDraft) -> DraftRequest | None:
        """The request to the lane; `None` where it cannot answer."""
        if self._lane is None:
            raise no_draft()
        effect = asked.effect
        context = effect.committed.text + effect.after.tokens
        length = min(effect.length, self._context_limit - len(context))
        if length < 1 or self.failure:
            return None
        slot = asked.slot
        return DraftRequest(slot.index, context, length, slot.uniforms(length), effect.stop, asked.racing)

    def _fork_request(self, asked: AskedFork) -> ForkRequest | None:
        """The request to the lane; `None` where it cannot answer."""
        if self._lane is None:
            raise no_draft()
        effect = asked.effect
        context = effect.committed.text + effect.window.tokens
        length = min(effect.length, self._context_limit - len(context) - 1)
        if length < 1 or self.failure:
            return None
        uniforms = asked.slot.uniforms(length * sum(effect.fan_outs))
        race = None if asked.slot.sampling.greedy else asked.slot.dice.race()
        return ForkRequest(asked.slot.index, context, effect.fan_outs, length, uniforms, effect.stop, race)

    def _answer_fork(self, asked: AskedFork, forking: Forking) -> None:
        asked.slot.statistics.drafted_tokens += sum(map(len, forking.tails))
        longest = max(map(len, forking.tails), default=0)
        asked.slot.statistics.draft_steps += 1 + longest
        guesses, seconds = len(asked.effect.fan_outs) - 1, forking.busy_seconds
        asked.slot.statistics.count_draft(guesses, len(forking.tails), longest, seconds)
        rows_are_read = not asked.slot.sampling.greedy or asked.effect.stop is not None
        fetch = partial(self._branch, self._lane, asked.slot.index, forking.number) if rows_are_read else None
        tails = dict(zip(forking.outcomes, enumerate(forking.tails), strict=True))
        asked.answer = PreparedForks(tails, fetch, asked.slot.statistics)

    def _branch(self, lane: Lane | None, slot: int, number: int, branch: int) -> Callable[[], Sequence[Row]] | None:
        """Ask `lane` for the rows of a branch. Returns what waits for them; `None` when the lane is lost, or was replaced."""
        wait = self.submit("branch", slot, number, branch) if lane is self._lane else None
        if wait is None:
            return None
        rows = cache(partial(self._rows, lane, wait))  # each token has one row, the same whenever it is asked for
        if not self.overlaps:
            rows()  # such a lane works when it is waited for, and the next fork replaces this one
        return rows

    def _rows(self, lane: Lane | None, wait: Wait) -> Sequence[Row]:
        """The rows of a branch; none when they are lost with their lane.

        A lane that was replaced loses no more than these: the lane in its place drafts on.
        """
        answer: list[Drafting] | None = None
        if lane is self._lane:
            answer = self._unless_lost(wait)
        else:
            with suppress(LaneError, CancelledError):
                answer = wait()
        return () if answer is None else tuple(as_read(answer[0].q))

    def arrived(self, guess: Guess) -> Guess:
        """`guess` with all its rows; it ends before the first that is lost with its lane, whatever its tokens are."""
        for i, drafted in enumerate(guess.drafted):
            if isinstance(drafted, Late) and not drafted.rows():
                return guess[:i]
        return guess

    def _unless_lost(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """What `call` returns; `None` when the lane is lost, before or now."""
        if self.failure:
            return None
        try:
            return call(*arguments)
        except (LaneError, ModelError) as error:
            self.give_up(str(error))
            return None

    def give_up(self, failure: str) -> None:
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
        committed = asked.effect.committed.text
        guessed = asked.effect.guess.tokens[: max(0, self._context_limit - len(committed))]
        return ScoreRequest(asked.slot.index, committed + guessed, len(guessed) + 1)


def no_draft() -> PairError:
    """The error for a pair without a draft."""
    return PairError("this strategy drafts, and no draft model was given: give one, or use a strategy without")


def groups(asked: Sequence[tuple[A, R]]) -> list[list[tuple[A, R]]]:
    """Split requests into groups, in order, so that no group asks a slot twice."""
    if len(asked) < 2 or len({request.slot for _, request in asked}) == len(asked):
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
