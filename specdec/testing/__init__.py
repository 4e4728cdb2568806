"""For tests of strategies, rules and policies of your own: exact proofs, and models that are made in milliseconds."""

from specdec.law.proof import assert_lossless

__all__ = ["assert_lossless"]
