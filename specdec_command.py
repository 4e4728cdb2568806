"""The console script `specdec`: so small that Ctrl-C finds it ready, while the rest is still being imported."""


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from specdec.cli import main as command
    except KeyboardInterrupt:
        return 130
    return command()
