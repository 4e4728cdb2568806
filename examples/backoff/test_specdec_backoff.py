from specdec_backoff import Backoff

from specdec import assert_lossless


def test_backoff_is_lossless():
    assert_lossless(Backoff(first=2, most=4))
