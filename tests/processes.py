"""Fresh interpreters, for tests of what happens in one."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

SPECDEC = [sys.executable, "-c", "import sys; from specdec.cli import main; sys.exit(main())"]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, whose packages it sees besides the installed ones."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)


def run_python(code: str, folder: Path) -> str:
    """What `code` prints; it must not fail or warn."""
    done = run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
