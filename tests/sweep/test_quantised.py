"""Models quantised by torchao, in every lane. `make sweep` installs it: where it is, importing transformers imports it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import decoded, tiny_checkpoint
from transformers import TorchAoConfig

from specdec import Pair
from specdec.runtime.messages import DraftRequest
from specdec.sampling import Sampling
from specdec.summary import DescribedPair
from specdec.testing.models import greedy_tokens

pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def int8() -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def test_a_quantised_target_decodes_unfused(checkpoint: Path, int8: Any) -> None:
    with Pair.load(checkpoint, checkpoint, quantization_config=int8, lane="inline") as pair:
        reason = pair.why_eager()["target"]
        assert reason is not None
        assert "weights of type Int8Tensor" in reason
        assert pair.draft is not None
        assert "Int8" not in type(pair.draft.lm_head.weight).__name__
        for strategy in ("speculative", "pearl"):
            assert decoded(pair, strategy) == greedy_tokens(pair.target, [3, 4, 5], 6)
        described = DescribedPair.of(pair)
        assert (described.quantization, described.draft_quantization) == ("torchao", None)
        assert f"{checkpoint} (torchao) + {checkpoint}, float32" in str(described)


def test_a_quantised_draft_works_in_its_own_process(checkpoint: Path, int8: Any) -> None:
    """torchao binds a method to each layer by hand, which pickle alone cannot send."""
    with Pair.load(checkpoint, checkpoint, draft_quantization_config=int8, lane="process") as pair:
        assert pair.draft is not None
        assert decoded(pair) == greedy_tokens(pair.target, [3, 4, 5], 6)
        drafts = pair.draft_lane()
        assert drafts is not None
        drafts.submit("begin", Sampling(temperature=0), [3])()
        [drafting] = drafts.submit("draft", [DraftRequest(0, [3, 4, 5], 4)])()
        assert tuple(drafting.tokens) == greedy_tokens(pair.draft, [3, 4, 5], 4)
