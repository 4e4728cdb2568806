"""What a decode counts and times. Metric names and definitions are vLLM's, since users know them.

A round is one verification here: a step of a strategy that asks for `Verify` twice counts two. PEARL's "MAT" is not comparable
with the mean acceptance length: it is the run length between rejections, without a cap.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from specdec.acceptance import Foresight


@dataclass
class Statistics:
    """Counts and seconds of one decode; `+` adds those of several. Properties are 0.0 where nothing was counted.

    In a batch, each sequence is charged with the seconds of the whole batch while it is decoded. The seconds of a forward, too,
    are charged in full to each sequence that it serves.

    `rounds`                verifications
    `new_tokens`            tokens of the output
    `drafted_tokens`        tokens that were guessed: sampled by the draft or computed by the strategy, wasted ones too
    `accepted_tokens`       guesses that were accepted
    `tested_tokens`         guesses that were tested: those after a rejected one are not
    `outcomes`              verdicts that were looked up among the outcomes that a draft foresaw (`Fork`)
    `foreseen_outcomes`     those that were among them (hits)
    `complete_outcomes`     looked up after a window of which all guesses were accepted
    `foreseen_complete`     those of them that were hits
    `target_forwards`       forwards of the target, without those that read the prompt
    `draft_steps`           tokens that the draft made one after another; of a fork, the forward over its window, and one for a
                            token of all branches
    `prefill_seconds`       wall seconds in which both models read the prompt
    `decode_seconds`        wall seconds after that; in a batch, those in which other prompts are read count too
    `target_busy_seconds`   seconds of the target's forwards
    `draft_busy_seconds`    seconds in which the draft worked
    `forward_seconds`       seconds in which at least one model worked: while both work at once, the longer of both
    `draft_failure`         why the draft was lost, after which decoding was autoregressive; empty otherwise
    `synthetic`             says that acceptance was forced, so that the tokens are no text; empty otherwise
    `accepted_in_round`     accepted guesses in a round -> number of rounds
    `window_forwards`       positions scored in one forward of the target -> number of forwards
    `window_seconds`        positions scored in one forward of the target -> seconds of these forwards
    `drafts`                (guesses before a fork, its branches, tokens of each) -> number of forks; (0, 0, tokens) -> number
                            of drafts without a fork
    `draft_seconds`         the same -> seconds of these forks or drafts
    """

    rounds: int = 0
    new_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    tested_tokens: int = 0
    outcomes: int = 0
    foreseen_outcomes: int = 0
    complete_outcomes: int = 0
    foreseen_complete: int = 0
    target_forwards: int = 0
    draft_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    target_busy_seconds: float = 0.0
    draft_busy_seconds: float = 0.0
    forward_seconds: float = 0.0
    draft_failure: str = ""
    synthetic: str = ""
    accepted_in_round: Counter[int] = field(default_factory=Counter[int])
    window_forwards: Counter[int] = field(default_factory=Counter[int])
    window_seconds: Counter[int] = field(default_factory=Counter[int])
    drafts: Counter[tuple[int, int, int]] = field(default_factory=Counter[tuple[int, int, int]])
    draft_seconds: Counter[tuple[int, int, int]] = field(default_factory=Counter[tuple[int, int, int]])

    def count_forward(self, width: int, seconds: float) -> None:
        """Add one forward of the target over `width` positions."""
        self.target_forwards += 1
        self.target_busy_seconds += seconds
        self.window_forwards[width] += 1
        self.window_seconds[width] += seconds  # type: ignore[assignment]  # a Counter that counts seconds, so that it adds up

    def count_draft(self, guesses: int, branches: int, tokens: int, seconds: float) -> None:
        """Add a fork behind so many guesses, of so many branches with so many tokens each; or a draft, without branches."""
        self.draft_busy_seconds += seconds
        self.drafts[guesses, branches, tokens] += 1
        self.draft_seconds[guesses, branches, tokens] += seconds  # type: ignore[assignment]  # as above

    def count_round(self, accepted: int, guessed: int, certain: int) -> None:
        """Add one verification of `guessed` tokens, `certain` of which the strategy computed, without a draft model."""
        self.rounds += 1
        self.accepted_tokens += accepted
        self.tested_tokens += min(accepted + 1, guessed)
        self.drafted_tokens += certain
        self.accepted_in_round[accepted] += 1

    def count_outcome(self, complete: bool, foreseen: bool) -> None:
        """Add one verdict that was looked up."""
        self.outcomes += 1
        self.foreseen_outcomes += foreseen
        self.complete_outcomes += complete
        self.foreseen_complete += complete and foreseen

    def __add__(self, other: Statistics) -> Statistics:
        ours, theirs = vars(self), vars(other)
        return Statistics(**{n: ours[n] or theirs[n] if isinstance(ours[n], str) else ours[n] + theirs[n] for n in ours})

    @property
    def tokens_per_second(self) -> float:
        """New tokens over decode seconds; the prefill is left out."""
        return self.new_tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def tokens_per_target_forward(self) -> float:
        """New tokens over target forwards."""
        return self.new_tokens / self.target_forwards if self.target_forwards else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens: 1 + accepted / rounds."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 0.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted / drafted tokens, from 0 to 1. All drafted tokens count, wasted ones too."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted / tested guesses, from 0 to 1: the `a` of closed forms."""
        return self.accepted_tokens / self.tested_tokens if self.tested_tokens else 0.0

    @property
    def hit_rate(self) -> float:
        """Foreseen outcomes / outcomes, from 0 to 1: how often a branch was ready."""
        return self.foreseen_outcomes / self.outcomes if self.outcomes else 0.0

    @property
    def foresight(self) -> Foresight | None:
        """How often outcomes were foreseen, whatever the fan-out was; `None` where one of both kinds was not looked up."""
        rejected = self.outcomes - self.complete_outcomes
        if not (rejected and self.complete_outcomes):
            return None
        foreseen = self.foreseen_outcomes - self.foreseen_complete
        return Foresight((foreseen / rejected,), (self.foreseen_complete / self.complete_outcomes,))

    @property
    def acceptance_histogram(self) -> dict[int, int]:
        """Accepted guesses in a round -> number of rounds, in order."""
        return dict(sorted(self.accepted_in_round.items()))

    @property
    def acceptance_by_position(self) -> list[float]:
        """Share of rounds in which at least 1, 2, ... guesses were accepted; empty where none was."""
        longest = max(self.accepted_in_round, default=0)
        reached = [sum(n for k, n in self.accepted_in_round.items() if k >= i) for i in range(1, longest + 1)]
        return [count / self.rounds for count in reached]

    @property
    def overhead_share(self) -> float:
        """Share of the decode seconds in which neither model worked: verification, transport and bookkeeping."""
        return self._idle(self.forward_seconds)

    @property
    def target_idle_share(self) -> float:
        """Share of the decode seconds in which the target did not work."""
        return self._idle(self.target_busy_seconds)

    @property
    def draft_idle_share(self) -> float:
        """Share of the decode seconds in which the draft did not work."""
        return self._idle(self.draft_busy_seconds)

    def _idle(self, busy_seconds: float) -> float:
        return max(0.0, 1 - busy_seconds / self.decode_seconds) if self.decode_seconds else 0.0
