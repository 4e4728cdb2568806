"""Acceptance as people type it, and as engines print it: `--acceptance` of every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specdec.cli.parsing import numbers
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from specdec.acceptance import Tag
    from specdec.profile import Profile

OPTION = "--acceptance"
ACCEPTANCE_HELP = (
    "How often a guess is accepted: a rate (0.8 or 80%), or rates by position, each given that the ones before it were "
    "accepted (0.9,0.8,0.7). As engines print it: marginal:0.805,0.632,0.483, shares of all rounds (vLLM's rates by position); "
    "mean:2.92@3, mean acceptance length, bonus token included, at draft length 3; histogram:39,1,0,3, rounds that accepted "
    "0, 1, 2, 3 guesses. golden:MODEL or golden:MODEL/MODE, published lengths. markov:A,R after an accepted and a rejected "
    "token; run:L, mean run length between rejections, corrected token included. With --profile: rate or recorded, its own."
)
OF_PROFILE = ("rate", "recorded")


def tag_of(text: str | None) -> Tag:
    """How acceptance that is typed came about: published lengths are a table."""
    return "table" if text is not None and text.partition(":")[0].strip() == "golden" else "assumed"


def parsed_acceptance(text: str | None, profile: Profile | None, source: str = "the profile") -> Acceptance:
    """The model of acceptance that a text stands for; without one, that of the profile. `source` is what errors call it."""
    from sim.setup.profiles import measured_acceptance

    if text is None or text in OF_PROFILE:
        if profile is not None:
            return measured_acceptance(profile, recorded=text == "recorded", source=source)
        if text is None:
            raise InputError("no acceptance is given: give --acceptance 0.8, or --profile")
        raise InputError(f"{OPTION} {text} is one of a profile: give --profile too, or a number")
    kind, colon, rest = text.partition(":")
    return _named(kind.strip(), rest.strip()) if colon else _rates(text)


def _rates(text: str) -> Acceptance:
    from sim.setup.acceptance import PerPosition, Rate

    rates = numbers(OPTION, text)
    return Rate(rates[0]) if len(rates) == 1 else PerPosition(tuple(rates))


def _named(kind: str, rest: str) -> Acceptance:
    from sim.engines.golden import golden
    from sim.setup.acceptance import PerPosition, histogram, marginal, markov, mean_length

    match kind:
        case "markov":
            return markov(*numbers(OPTION, rest, 2))
        case "run":
            return mean_length(numbers(OPTION, rest, 1)[0])
        case "mean":
            length, at, drafted = rest.partition("@")
            if not (at and drafted.strip().isdecimal() and len(drafted.strip()) < 6 and int(drafted)):
                raise InputError(
                    f"{OPTION} mean:{rest} does not say at which draft length: write mean:2.92@3, the mean acceptance length "
                    "and the tokens that were drafted in a round"
                )
            return mean_length(numbers(OPTION, length, 1)[0], int(drafted))
        case "marginal":
            return marginal(numbers(OPTION, rest))
        case "histogram":
            counts = numbers(OPTION, rest)
            if any(count != int(count) if abs(count) < float("inf") else True for count in counts):
                raise InputError(f"{OPTION} histogram:{rest} counts rounds: give whole numbers, such as histogram:39,1,0,3")
            return histogram([int(count) for count in counts])
        case "golden":
            model, _, mode = rest.partition("/")
            return PerPosition(golden(model, mode).by_position)
        case _:
            raise InputError(
                f"{OPTION} {kind}:{rest} is not understood: the names are marginal, mean, histogram, golden, markov and run, "
                "see --help"
            )
