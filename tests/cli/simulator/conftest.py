"""What commands of the simulator read: a profile and a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from written_profile import written_profile


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    path.write_text(json.dumps(written_profile()))
    return path


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    path.write_text("timestamp,input_length,output_length\n" + "".join(f"{2 * at},10,{20 + at % 7}\n" for at in range(30)))
    return path
