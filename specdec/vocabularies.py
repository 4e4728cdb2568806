"""How the draft's tokens become the target's: by the same ids, by the tokens that both have, or by text.

`match_tokenizers` chooses, and refuses in one line what cannot be done. The drafters are in `specdec.runtime`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from specdec.errors import InputError, PairError
from specdec.loading import renumbered, require_equal_tokenizers
from specdec.prompts import bundled
from specdec.runtime.spelling import spelling_of
from specdec.runtime.translation import Vocabularies

WAYS = ("auto", "same", "common", "text")

LEAST_SHARE = 0.5
"""`"auto"` drafts common tokens if they are at least this share of the target's tokens in the bundled prompts, else text.

A token that is not common is always rejected, so this share bounds the acceptance. Text has no such bound, but it is drafted
greedily, and its tokens are accepted with `p` alone.
"""


@dataclass(frozen=True)
class Matching:
    """How the draft's tokens become the target's.

    `way`            `"same"`: the ids mean the same. `"common"`: it proposes tokens that both vocabularies spell alike (TLI).
                     `"text"`: it writes text, which the target's tokenizer cuts into tokens (SLEM)
    `vocabularies`   the two spellings, unless the ids mean the same
    `share`          share of the target's tokens in the bundled prompts that are common; 1.0 where the ids mean the same
    """

    way: str = "same"
    vocabularies: Vocabularies | None = None
    share: float = 1.0

    def __str__(self) -> str:
        match self.way:
            case "same":
                return "the ids of both mean the same"
            case "common":
                return f"it drafts the tokens that both vocabularies have ({100 * self.share:.0f} % of the target's in text)"
            case _:
                return f"it drafts text, since {100 * self.share:.0f} % of the target's tokens in text are common"


SAME = Matching()


def match_tokenizers(
    target: PreTrainedTokenizerBase,
    draft: PreTrainedTokenizerBase,
    way: str = "auto",
    target_name: str = "the target",
    draft_name: str = "the draft",
) -> Matching:
    """How a draft can work for a target, by their tokenizers.

    `way` is one of `WAYS`. `"auto"` is the same ids where the ordinary tokens have the same numbers, else the common tokens
    where they are at least `LEAST_SHARE` of the target's, else text; a `RuntimeWarning` says which. Raises `PairError` for what
    these tokenizers do not allow.
    """
    require_way(way)
    if way == "same" or (way == "auto" and renumbered(target, draft) is None):
        require_equal_tokenizers(target, draft, target_name, draft_name)
        return SAME
    both = Vocabularies(spelling_of(target, target_name), spelling_of(draft, draft_name))
    share = both.share(bundled())
    if way == "common" and not both.common:
        raise PairError(f"{draft_name} and {target_name} spell no token alike: let the draft write text (vocabularies='text')")
    if way != "auto":
        return Matching(way, both, share)
    chosen = Matching("common" if both.common and share >= LEAST_SHARE else "text", both, share)
    warnings.warn(f"{draft_name} has another tokenizer than {target_name}: {chosen}", RuntimeWarning, stacklevel=3)
    return chosen


def require_way(way: str, *, tokenizers: bool = True) -> None:
    """Refuse an unknown way, and one that needs tokenizers where there are not two."""
    if way not in WAYS:
        raise InputError(f"unknown vocabularies {way!r}: choose one of {', '.join(WAYS)}")
    if way != "auto" and not tokenizers:
        raise InputError(f"vocabularies={way!r} needs a target and a draft that have tokenizers: give both, or leave it out")
