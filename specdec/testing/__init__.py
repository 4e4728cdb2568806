"""Helps to test strategies, rules and draft-length policies of your own.

    run_checks(MyStrategy())           runs every installed check: its exact law, real decodes, the simulator
    assert_lossless(MyStrategy())      checks the exact law alone, under every rule or under a rule of your own
    tiny_pair()                        makes a real pair of random weights, in milliseconds

Modules that need torch are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specdec.law.proof import assert_lossless
from specdec.testing.checks import Check, checks, run_checks

if TYPE_CHECKING:
    from specdec.testing.models import byte_tokenizer, greedy_tokens, model, resembling
    from specdec.testing.pair import tiny_pair

_LATER = {
    "byte_tokenizer": "specdec.testing.models",
    "greedy_tokens": "specdec.testing.models",
    "model": "specdec.testing.models",
    "resembling": "specdec.testing.models",
    "tiny_pair": "specdec.testing.pair",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'specdec.testing' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "Check",
    "assert_lossless",
    "byte_tokenizer",
    "checks",
    "greedy_tokens",
    "model",
    "resembling",
    "run_checks",
    "tiny_pair",
]
