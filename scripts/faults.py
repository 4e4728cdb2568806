"""Kill or stop the draft's process at a random round of a decode, many times, and see that nothing is lost.

    python scripts/faults.py --times 50

Half of the times the process is killed (SIGKILL), half of the times it is stopped (SIGSTOP) and counts as hung after a second.
The finished greedy text must equal the target's own, token for token, and no process may be left. Prints a line for each fault.
Exits with code 1 at the first fault that changes the text or leaves a process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import warnings

import torch

from specdec import Decoding, Pair, create, decode
from specdec.prompts import bundled
from specdec.runtime import lane

TOKENS = 48


def main() -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=50)
    times = parser.parse_args().times
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)
    lane.PATIENCE_SECONDS = 1.0
    source, prompts = random.Random(0), bundled()
    with Pair.bundled(dtype="float64", lane="process") as pair:
        expected = [decode(pair, create("autoregressive"), text, max_new_tokens=TOKENS, temperature=0) for text in prompts]
        for number in range(times):
            at, which = source.randrange(1, 12), number % len(prompts)
            kind = signal.SIGKILL if number % 2 == 0 else signal.SIGSTOP
            strategy = create(("pearl", "speculative", "elastic")[number % 3])
            decoding = Decoding(pair, strategy, prompts[which], max_new_tokens=TOKENS, temperature=0)
            count, victim = 0, pair.draft_lane()._process  # type: ignore[union-attr]
            for count, _ in enumerate(decoding, start=1):
                if count == at:
                    os.kill(victim.pid, kind)
            result = decoding.result()
            failure = result.statistics.draft_failure
            lost = result.tokens != expected[which].tokens or not (failure or count <= at)
            left = bool(failure) and victim.poll() is None
            print(f"{number + 1:3} {kind.name} {strategy.name} after round {at}: {failure[:60]}", flush=True)
            if lost or left:
                print(f"broken: text {'differs' if lost else 'is right'}, process {'left' if left else 'gone'}")
                return 1
            if victim.poll() is None:  # the decode ended before it needed the draft again
                os.kill(victim.pid, signal.SIGCONT)
    print(f"{times} faults, no token lost, no process left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
