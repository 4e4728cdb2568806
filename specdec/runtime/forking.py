"""A fork at work: which outcomes the draft foresees, and the branch of each, one token of all branches at a time.

`OpenFork` holds one sequence's. The forwards are the worker's. Which outcomes are foreseen depends on the draft's rows, and on
the noise that the target's own token will be picked by. The tokens of a branch are drawn by other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from specdec.runtime.branches import Branches, Feed
from specdec.runtime.messages import Forking, ForkRequest
from specdec.runtime.vocabulary import Known, Wanted
from specdec.sampling import NOT_A_TOKEN, Sampler, greedy_choice, not_a_distribution, picked, race_noise
from specdec.tokens import Tokens


class OpenFork:
    """The branches of one sequence, from the draft's logits behind each prefix of the window.

    `outcomes`   that are foreseen
    `tails`      drafted so far, one list for each outcome
    `rows`       of each step's tokens, shape (branches, vocabulary); none when greedy without a stop rule
    `broken`     whether a row was no distribution
    """

    def __init__(self, request: ForkRequest, sampler: Sampler, logits: Tensor) -> None:
        self.request, self._sampler = request, sampler
        window = len(request.fan_outs) - 1
        self._text = Tokens.of(request.context)
        self._first = len(self._text) - window
        try:
            scores = sampler.processed(logits, self._text)
        except Exception:  # of a processor, behind what may be the last token: nothing is foreseen
            scores = None
        self.broken = scores is not None and not _can_choose(scores, sampler.greedy)
        self.outcomes = [] if self.broken or scores is None else self._foreseen(scores)
        self.tails: list[list[int]] = [[] for _ in self.outcomes]
        self.rows: list[Tensor] = []
        self._ended = [False] * len(self.outcomes)
        uniforms = torch.tensor(request.uniforms[: request.length * len(self.outcomes)], dtype=torch.float64)
        self._uniforms = None if sampler.greedy else uniforms.to(logits.device).view(-1, request.length)

    def _foreseen(self, scores: Tensor) -> list[tuple[int, int]]:
        """The outcomes that come first in the race by which the target will pick its token; when greedy, the likeliest."""
        if self.request.race is not None:
            scores = scores - race_noise(self.request.race, scores.shape[-1]).log().to(scores)
        return foreseen(scores, self._text[self._first :], self.request.fan_outs)

    @property
    def branches(self) -> Branches:
        """Where they stand."""
        prefixes = tuple([self._first + accepted for accepted, _ in self.outcomes])
        return Branches(self.request.slot, len(self._text), prefixes, self.request.length)

    @property
    def newest(self) -> list[int]:
        """The newest token of each branch, to be fed next."""
        return [tail[-1] if tail else head for tail, (_, head) in zip(self.tails, self.outcomes, strict=True)]

    @property
    def ended(self) -> bool:
        """Whether every branch has ended before its full length."""
        return all(self._ended)

    @property
    def texts(self) -> list[Tokens]:
        """The whole text of each branch."""
        branches = zip(self.outcomes, self.tails, strict=True)
        return [self._text.first(self._first + accepted).grown((head, *tail)) for (accepted, head), tail in branches]

    def add(self, logits: Tensor) -> None:
        """Draw the next token of each branch. A branch whose row is no distribution ends, and keeps its tokens."""
        step = len(self.rows) if self._uniforms is not None else max(map(len, self.tails))
        if step == self.request.length:
            return
        try:
            scores = self._processed(logits)
        except Exception:  # as above
            self._ended = [True] * len(self.tails)
            return
        stop = self.request.stop
        if self._uniforms is not None or stop is not None:
            self.rows.append(self._sampler.rows(scores))
        tokens = greedy_choice(scores) if self._uniforms is None else picked(self.rows[-1], self._uniforms[:, step])
        for number, token in enumerate(tokens.tolist()):
            if self._ended[number]:
                continue
            if token == NOT_A_TOKEN:
                self._ended[number] = self.broken = True
                continue
            self.tails[number].append(token)
            self._ended[number] = stop is not None and stop(self.rows[-1][number], token)

    def _processed(self, logits: Tensor) -> Tensor:
        if self._sampler.context_free:
            return self._sampler.processed(logits, ())
        return torch.cat([self._sampler.processed(logits[i : i + 1], text) for i, text in enumerate(self.texts)])

    def answer(self, number: int, seconds: float) -> Forking:
        """What has been prepared, after so many seconds."""
        failure = str(not_a_distribution()) if self.broken and not self.outcomes else ""
        return Forking(number, self.outcomes, self.tails, seconds, failure)

    def q(self, branch: int) -> Tensor | None:
        """The rows of the tokens of a branch, shape (tokens, vocabulary); `None` when greedy without a stop rule."""
        tail = self.tails[branch]
        return torch.stack([rows[branch] for rows in self.rows[: len(tail)]]) if self.rows and tail else None


def _can_choose(scores: Tensor, greedy: bool) -> bool:
    """Whether no row holds NaN, nor +inf unless `greedy`."""
    best = scores.amax(-1)
    return bool((best <= torch.inf if greedy else best < torch.inf).all())


def grow(forks: Sequence[OpenFork], feed: Feed, known: Known) -> None:
    """Draft all branches of all forks, a token of each in one forward. `known` is what the model knows of the vocabulary."""
    for _ in range(max(fork.request.length for fork in forks)):
        if all(fork.ended for fork in forks):
            return
        logits = feed([known.legible(fork.newest) for fork in forks])
        for fork, own in zip(forks, logits, strict=True):
            fork.add(known.widened(own))


def grow_one_by_one(forks: Sequence[OpenFork], logits: Callable[[Sequence[Wanted]], list[Tensor]]) -> None:
    """The same by a forward for each token of each branch, where the model's attention takes no mask of ours."""
    for fork in forks:
        for _ in range(fork.request.length):
            if fork.ended:
                break
            fork.add(torch.cat([logits([(fork.request.slot, text, 1)])[0] for text in fork.texts]))


def foreseen(scores: Tensor, window: Sequence[int], fan_outs: Sequence[int]) -> list[tuple[int, int]]:
    """The outcomes that a draft foresees: after each prefix of the window the first by score, the lowest ids among equals.

    `scores` has a row for each prefix, shape (`len(window)` + 1, vocabulary). The window's own next token is left out, and so
    is a token that the draft would never draw.
    """
    scores = scores.clone()
    own_next = torch.tensor([*window], dtype=torch.long, device=scores.device).unsqueeze(-1)
    scores[: len(window)].scatter_(1, own_next, -torch.inf)
    ranks: list[tuple[Tensor, Tensor]] = []
    for _ in range(max(fan_outs)):
        best, tokens = ranked = scores.max(-1, keepdim=True)
        ranks.append(ranked)
        scores.scatter_(1, tokens, -torch.inf)
    best, tokens = (torch.cat(found, 1).tolist() for found in zip(*ranks, strict=True))
    return [
        (accepted, token)
        for accepted, fan_out in enumerate(fan_outs)
        for score, token in zip(best[accepted][:fan_out], tokens[accepted], strict=False)
        if score > -torch.inf
    ]
