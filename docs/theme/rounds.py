"""Who waits for whom: rounds on a time axis, with tokens as boxes.

Nothing is drawn by hand. The shipped strategies are driven with a stop-watch as the interpreter: a draft step takes 1, a target
forward `RATIO`. A scenario says which positions of the text the draft guesses wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import altair as alt

from specdec import Both, Committed, DecodingStrategy, Draft, Effect, Guess, KnownFacts, Score, Scores, Verdict, Verify
from specdec.effects import drive_at_once
from specdec.pictures import INKS, Theme
from strategies import Pearl, Speculative

RATIO, SHOWN = 4, 12
Fate: TypeAlias = Literal["accepted", "rejected", "dropped"]
FATES: dict[Fate, tuple[str, str]] = {
    "accepted": ("#00684C", "#2FB58C"),
    "rejected": ("#B3261E", "#FF8A80"),
    "dropped": ("#6E6E6E", "#A8A8A8"),
}
"""What becomes of a drafted token: its colour on a light ground, and on a dark one."""


@dataclass
class Box:
    """A drafted token: its place in the text, when it was made, and what became of it."""

    position: int
    start: float
    fate: Fate | None = None


@dataclass
class Clock:
    """What happened so far: drafted tokens, and forwards of the target with what they commit."""

    wrong: Callable[[int], bool]
    now: float = 0.0
    boxes: list[Box] = field(default_factory=list[Box])
    forwards: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def begin(self, effect: Effect[Any]) -> tuple[Any, float]:
        """The answer of a model, and when it comes."""
        match effect:
            case Draft():
                first = len(effect.committed) + len(effect.after)
                self.boxes += [Box(first + n, self.now + n) for n in range(effect.length)]
                return Guess.certain([0] * effect.length), self.now + effect.length
            case Score():
                first, last = len(effect.committed), len(effect.committed) + len(effect.guess) - 1
                checks = f"checks {first}-{last}" if last > first else f"checks {first}"
                self.forwards.append({"start": self.now, "end": self.now + RATIO, "checks": checks})
                return Scores(effect.committed, effect.guess), self.now + RATIO
            case _:
                raise TypeError(effect)

    def answer(self, effect: Effect[Any]) -> Any:
        """Carry out an effect."""
        match effect:
            case Both(left, right):
                (one, first), (two, second) = self.begin(left), self.begin(right)
                self.now = max(first, second)
                return one, two
            case Verify(scores, guess, bonus):
                return self.verified(len(scores.committed), len(guess), bonus)
            case _:
                value, self.now = self.begin(effect)
                return value

    def verified(self, first: int, tests: int, bonus: bool) -> Verdict:
        """Up to the first wrong guess all pass; after it, nothing that was drafted is of use."""
        count = next((n for n in range(tests) if self.wrong(first + n)), tests)
        complete = count == tests
        for box in [box for box in self.boxes if box.fate is None]:
            if box.position < first + count:
                box.fate = "accepted"
            elif not complete:
                box.fate = "rejected" if box.position == first + count else "dropped"
        tokens = count + (bonus or not complete)
        last = first + tests - 1
        self.forwards[-1] |= {"commits": f"+{tokens}", "checks": f"checks {first}-{last}" if tests > 1 else f"checks {first}"}
        return Verdict(Committed((0,) * tokens), count, complete)


def happened(strategy: DecodingStrategy, rounds: int, wrong: Callable[[int], bool]) -> Clock:
    """So many rounds behind a prompt of one token."""
    clock = Clock(wrong)
    state = strategy.init(Committed((0,)), KnownFacts(RATIO))
    for _ in range(rounds):
        state = drive_at_once(strategy.step(state), clock.answer)
    return clock


PANELS: dict[str, tuple[str, DecodingStrategy, Callable[[int], bool], int]] = {
    "waiting": ("Mutual waiting: speculative decoding", Speculative(4), lambda at: at == 9, 0),
    "pre-verify": ("PEARL, pre-verify: one token is checked", Pearl(4), lambda at: at == 1, 0),
    "post-verify": ("PEARL, post-verify: the draft does not wait", Pearl(4), lambda at: at == 10, 4),
}
"""By name: title, strategy, which guesses are wrong, and from when on `SHOWN` draft steps are shown."""


def panel(name: str, theme: Theme) -> Any:
    """One panel. Boxes of the draft are tokens, numbered by their place in the text."""
    title, strategy, wrong, begin = PANELS[name]
    end = begin + SHOWN
    clock, ink, dark = happened(strategy, 5, wrong), INKS[theme], theme == "dark"
    tokens = [
        {"who": "draft", "start": box.start, "end": box.start + 1, "fate": box.fate, "label": f"{box.position}"}
        for box in clock.boxes
        if begin <= box.start < end
    ]
    forwards = [{"who": "target", **one} for one in clock.forwards if begin <= one["start"] < end]
    x = alt.X("start:Q", title="time, in draft steps", scale=alt.Scale(domain=[begin, end], nice=False))
    x = x.axis(grid=False, values=list(range(begin, end + 1, 4)))
    y = alt.Y("who:N", title=None, sort=["target", "draft"], axis=alt.Axis(domain=False, ticks=False, labelFontSize=13))
    colour = alt.Scale(domain=[*FATES], range=[pair[dark] for pair in FATES.values()])
    rim: dict[str, Any] = {"stroke": ink.ground, "strokeWidth": 2, "cornerRadius": 3}
    draft = alt.Chart(alt.Data(values=tokens)).transform_calculate(middle="datum.start + 0.5")
    target = alt.Chart(alt.Data(values=forwards)).transform_calculate(middle="(datum.start + datum.end) / 2")
    words: dict[str, Any] = {"color": ink.ground, "fontSize": 12}
    layers = [
        draft.mark_bar(height=30, **rim).encode(x=x, x2="end:Q", y=y, color=alt.Color("fate:N", scale=colour, legend=None)),
        draft.mark_text(**words, fontWeight="bold").encode(x="middle:Q", y=y, text="label:N"),
        target.mark_bar(height=40, color="#3A3F4A" if not dark else "#C9CDD6", **rim).encode(x=x, x2="end:Q", y=y),
        target.mark_text(**words, dy=-8).encode(x="middle:Q", y=y, text="checks:N"),
        target.mark_text(**words, dy=9, fontWeight="bold").encode(x="middle:Q", y=y, text="commits:N"),
    ]
    return alt.layer(*layers).properties(width=290, height=108, title=alt.TitleParams(title, anchor="start"))
