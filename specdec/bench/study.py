"""`bench`, the benchmark as a study: a function of values that returns a frozen report.

import strategies
from specdec import Pair
from specdec.bench import bench

with Pair.bundled() as pair:
    print(bench(pair, [strategies.Pearl(), strategies.Speculative(4)], ["def add(a, b):"], repeats=3))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specdec.bench.report import BenchReport
from specdec.bench.results import report_of
from specdec.bench.run import Benchmark, Decoder
from specdec.bench.values import BASELINE
from specdec.decoding import decode
from specdec.pair import Pair
from specdec.prompts import Chat
from specdec.report import Progress, no_progress
from specdec.strategy import DecodingStrategy, create
from specdec.text import Prompt


def bench(
    pair: Pair,
    strategies: Sequence[DecodingStrategy],
    prompts: Sequence[Prompt | Chat],
    *,
    temperatures: Sequence[float] = (0.0, 1.0),
    max_new_tokens: int = 64,
    repeats: int = 3,
    seconds: float = float("inf"),
    verification: str = "token",
    seed: int = 0,
    peers: Sequence[Decoder] = (),
    prompts_file: str = "",
    progress: Progress = no_progress,
) -> BenchReport:
    """Measure strategies side by side; autoregressive decoding is always measured too.

    `strategies`       to compare, such as those of `line_up`
    `prompts`          texts, token ids, messages, or conversations as `specdec.prompts.load_chats` reads them: every turn is a
                       prompt then, after answers of the target's own
    `temperatures`     0 is greedy
    `max_new_tokens`   of each output
    `repeats`          of all prompts
    `seconds`          limit of the decoding; the first repeat is then cut short, not left out
    `verification`     name of a rule, or forced acceptance such as `synthetic:0.8`
    `seed`             of the first decode
    `peers`            contenders of other libraries, such as those of `hugging_face`
    `prompts_file`     name of the prompts in the report
    `progress`         gets the steps, one for each decode

    Ctrl-C ends the benchmark early. The report then holds what was measured so far, and its `settings.interrupted` is true.
    """
    texts = turns(pair, prompts, max_new_tokens, progress)
    benchmark = Benchmark(pair, strategies, texts, temperatures, max_new_tokens, repeats, seconds, verification, seed, peers)
    interrupted = False
    try:
        for _ in progress(benchmark, len(benchmark)):
            pass
    except KeyboardInterrupt:
        interrupted = True
    return report_of(benchmark, prompts_file=prompts_file, interrupted=interrupted)


def turns(pair: Pair, prompts: Sequence[Prompt | Chat], max_new_tokens: int, progress: Progress) -> list[Prompt]:
    """The prompts, with the messages of every turn in the place of a conversation.

    The target answers greedily, without a draft, so that all contenders decode the same prompts, whatever they draft. An answer
    between two turns has at most `max_new_tokens` tokens, and is a step of `progress`. Raises `InputError` for messages that
    the pair's chat template refuses.
    """
    found: list[Prompt] = []

    def steps() -> Iterator[str]:
        for prompt in prompts:
            if isinstance(prompt, Chat):
                yield from _answered(pair, prompt, max_new_tokens, found)
            else:
                found.append(prompt)

    answers = sum(len(prompt.later) for prompt in prompts if isinstance(prompt, Chat))
    for _ in progress(steps(), answers) if answers else steps():
        pass
    return found


def _answered(pair: Pair, chat: Chat, max_new_tokens: int, found: list[Prompt]) -> Iterator[str]:
    messages = chat.messages
    found.append(messages)
    for said in chat.later:
        yield "answering what comes before a later turn"
        answer = decode(pair, create(BASELINE), messages, max_new_tokens=max_new_tokens, temperature=0).text
        messages = (*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": said})
        found.append(messages)
