"""The errors that the project raises.

    SpecdecError
      ├── InputError      what a person typed, passed or pointed to is wrong
      │     ├── PairError       two models that cannot work together, or cannot be loaded
      │     └── SamplingError   a sampling setting out of range
      ├── StrategyError   a strategy does what it must not, or asks for what an interpreter cannot answer
      ├── ModelError      a model failed, or answered something that is not a distribution
      ├── LaneError       a draft worker died, failed or stopped answering
      ├── NotLossless     the exact law found a counterexample
      └── CheckFailed     a strategy fails a check of `specdec.testing`

Messages name the culprit, then the remedy, in one line. The command line prints that line and exits with code 2.
"""

from typing import Any


class SpecdecError(Exception):
    """Base of all errors here: catch this one to catch all."""


class InputError(SpecdecError, ValueError):
    """A bad argument, prompt, file or option."""


class PairError(InputError):
    """A model that cannot be loaded, or a draft that does not fit its target."""


class SamplingError(InputError):
    """A sampling setting out of its range."""


class StrategyError(SpecdecError):
    """A strategy that breaks a rule of `specdec.effects`, or asks for an effect that the interpreter cannot answer."""


class ModelError(SpecdecError):
    """A model that fails in a forward, or whose logits hold NaN or no finite value at all.

    `results` hold what `decode` had committed by then, one for each prompt.
    """

    results: tuple[Any, ...] = ()


class LaneError(SpecdecError):
    """A worker that died, failed or did not answer in time."""


class NotLossless(SpecdecError, AssertionError):
    """A strategy whose output law is not the target's; the message holds a smallest counterexample."""


class CheckFailed(SpecdecError, AssertionError):
    """A strategy that fails checks of `specdec.testing`; the message holds a line or more for each."""
