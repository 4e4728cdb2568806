"""Rows that are read later than they come: they are those of their request, and a lane that is lost before loses no text."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from decodes import one_round

from specdec import Committed, DecodingStrategy, LaneError, State, create
from specdec.runtime.engine import Engine
from specdec.runtime.lane import InlineLane, Lane, ThreadLane
from specdec.runtime.messages import DraftRequest, ForkRequest
from specdec.runtime.slot import Slot
from specdec.runtime.worker import NewWorker
from specdec.sampling import Sampling

VOCABULARY = 12


def request(context: list[int]) -> DraftRequest:
    source = random.Random(0)
    return DraftRequest(0, context, 3, [source.random() for _ in range(3)])


@pytest.mark.parametrize("lane", ["thread", "process"], indirect=True)
@pytest.mark.parametrize("unread", ["draft", "branch"])
def test_rows_survive_a_draft_that_is_asked_for_and_read_before_them(lane: Lane, draft: Any, unread: str) -> None:
    inline = InlineLane(NewWorker(draft, VOCABULARY))
    for one in (lane, inline):
        one.submit("begin", Sampling(), [1, 2])()
    if unread == "draft":
        early, expected = (one.submit("draft", [request([1, 2])]) for one in (lane, inline))
    else:
        fork = ForkRequest(0, [1, 2, 3], (1, 1), 3, [0.1, 0.4, 0.7, 0.2, 0.5, 0.8])
        [[forking], _] = (one.submit("fork", [fork])() for one in (lane, inline))
        early, expected = lane.submit("branch", 0, forking.number, 1), inline.submit("branch", 0, 1, 1)
    before = expected()  # an inline lane works when it is waited for
    late, after = (one.submit("draft", [request([4, 4, 4])])() for one in (lane, inline))
    for [drafting], [known] in ((late, after), (early(), before)):
        assert drafting.tokens == known.tokens
        assert torch.equal(torch.as_tensor(drafting.q), torch.as_tensor(known.q))


class WithoutRows(ThreadLane):
    """A lane that is lost when it is asked for the rows of a branch, or when they are waited for."""

    at_once = False

    def submit(self, method: str, *arguments: Any) -> Any:
        def lost() -> None:
            raise LaneError("the draft worker is gone")

        if method == "branch":
            return lost() if self.at_once else lost
        return super().submit(method, *arguments)


def rounds(engine: Engine, slot: Slot, strategy: DecodingStrategy, number: int) -> list[int]:
    """How many tokens each round commits."""
    state, lengths = State(Committed((1, 2))), [2]
    for _ in range(number):
        state = one_round(engine, slot, strategy.step(state))
        lengths.append(len(state.committed))
    return [after - before for before, after in pairwise(lengths)]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", ["saguaro", "hedged"])
def test_decoding_goes_on_without_the_rows_of_a_branch(target: Any, draft: Any, name: str, at_once: bool) -> None:
    lane = WithoutRows(NewWorker(draft, VOCABULARY))
    lane.at_once = at_once
    engine, slot = Engine(InlineLane(NewWorker(target, VOCABULARY)), lane, 64), Slot(0)
    engine.begin(slot, [1, 2])
    strategy = create(name, draft_length=2, fan_out=VOCABULARY - 1)  # every outcome is foreseen
    with pytest.warns(RuntimeWarning, match="decoding goes on without the draft: the draft worker is gone"):
        committed = rounds(engine, slot, strategy, 6)
    assert committed == [1] * 6
    assert slot.statistics.draft_failure == "the draft worker is gone"
    lane.close()
