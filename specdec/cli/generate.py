"""`specdec generate`: continue a text, round by round, and show which tokens the draft proposed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli.console import LOADING, Terminal, uninterrupted
from specdec.cli.options import SEED, Json, ModelOptions, StrategyOptions, VerificationOption, sampling_option
from specdec.cli.prompt import PromptOptions, chat_hint, shown
from specdec.errors import InputError
from specdec.runtime.hosting import started_early
from specdec.synthetic import require_text

if TYPE_CHECKING:
    from specdec.decoding import Decoding
    from specdec.generated import Generated, GenerateSettings
    from specdec.output import Result
    from specdec.pair import Pair
    from specdec.strategy import DecodingStrategy

DRAFTED, OWN = "green", "bold"
STARTING = "starting the draft, and reading the prompt"


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen and where the text ends. What is not given is as the checkpoint says."""

    temperature: Annotated[float | None, sampling_option(help="0 is greedy. As the checkpoint says unless given.")] = None
    top_k: Annotated[int | None, sampling_option(help="Keep the k likeliest tokens; 0: all.")] = None
    top_p: Annotated[float | None, sampling_option(help="Keep the likeliest of this mass.")] = None
    min_p: Annotated[float | None, sampling_option(help="Keep what has this share of the likeliest.")] = None
    repetition_penalty: Annotated[float | None, sampling_option(help="Above 1: repeat less.")] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens to generate at most. The checkpoint's, or 128, unless given.")
    ] = None
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End after this text; may be repeated.")] = None
    eos: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="End at this token or token id; may be repeated; none: do not end at any."),
    ] = None

    def check(self) -> None:
        """Refuse what is out of range, and what does nothing at temperature 0."""
        from specdec.settings import Options

        Options(**self._named)
        for option, value in {"--top-k": self.top_k, "--top-p": self.top_p, "--min-p": self.min_p}.items():
            if self.temperature == 0 and value is not None:
                raise InputError(f"{option} {value} does nothing at temperature 0, where the likeliest token is taken: drop it")

    def options(self, pair: Pair) -> dict[str, Any]:
        """What was given, by the names of `specdec.decode`."""
        given = {**self._named, "eos": None if self.eos is None else token_ids(pair, self.eos)}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def _named(self) -> dict[str, Any]:
        values = asdict(self)
        del values["eos"]
        return {"stop_strings": values.pop("stop"), **values}


def token_ids(pair: Pair, tokens: Sequence[str]) -> tuple[int, ...]:
    """Token ids that are written as numbers, or as the tokenizer writes tokens; none for `none`."""
    if "none" in tokens:
        if len(tokens) > 1:
            raise InputError(f"--eos none ends at no token, and {len(tokens)} were given: give none alone, or leave it out")
        return ()
    known: dict[str, int] = {} if pair.tokenizer is None else pair.tokenizer.get_vocab()
    found = [int(token) if token.isdecimal() and len(token) < 20 else known.get(token, -1) for token in tokens]
    for token, number in zip(tokens, found, strict=True):
        if not 0 <= number < pair.vocabulary:
            raise InputError(f"--eos {token} is no token: give one of the tokenizer's, or an id below {pair.vocabulary}")
    return tuple(found)


def generate(
    prompts: PromptOptions,
    strategies: StrategyOptions,
    models: ModelOptions,
    sampling: SamplingOptions,
    verification: VerificationOption = "token",
    seed: Annotated[int | None, sampling_option(help=f"{SEED}; random unless given.")] = None,
    json: Json = None,
) -> None:
    """Continue a text, and show which tokens the draft proposed.

    On a terminal, drafted tokens that the target accepted look different from the target's own. The text goes to standard
    output, the statistics to standard error. Ctrl-C ends it; the text so far is kept. With --chat the target answers the prompt
    instead of continuing it.

    Examples:
      specdec generate "ROMEO:" --temperature 0.8
      specdec generate "def fibonacci(n):" --strategy speculative --draft-length 3 --temperature 0
      specdec generate --chat "Why is the sky blue?" --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B
      specdec generate --prompt-file story.txt --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --stop "THE END"
      echo "Question: How many legs have 3 cats?" | specdec generate - --json result.json
    """
    terminal = Terminal(json)
    require_text(verification)
    if models.shapes:
        raise InputError(f"{models.shapes}: random weights and no tokenizer make no text: measure them with specdec bench")
    prompt = prompts.read()
    rule: dict[str, Any] = {"verification": verification, "seed": random.randrange(2**32) if seed is None else seed}
    with ExitStack() as stack:
        with terminal.doing(LOADING):
            strategy = strategies.create()
            stack.enter_context(started_early(strategy.drafts and models.draft_in_a_process))
            sampling.check()
            from specdec.decoding import Decoding
            from specdec.generated import GenerateSettings

            pair = stack.enter_context(models.load())
        options = sampling.options(pair)
        decoding = Decoding(pair, strategy, prompt, **options, **rule)
        settings = GenerateSettings.of(decoding.settings, options, **rule)
        interrupted = stream(terminal, pair, decoding, prompt if isinstance(prompt, str) else "")
        report = reported(shown(pair, prompt), decoding.result(), strategy, pair, settings)
        hint = chat_hint(pair, prompt)
    terminal.notes.print("")
    terminal.notes.print(report, soft_wrap=True)
    if terminal.console.is_terminal:
        terminal.notes.print(f"[{DRAFTED}]green: drafted and accepted[/]; [{OWN}]bold: the target's own[/]")
    if hint and terminal.errors.is_terminal:
        terminal.errors.print(hint, style="dim")
    terminal.write(report.to_dict())
    if interrupted:
        raise KeyboardInterrupt


def reported(prompt: str, result: Result, strategy: DecodingStrategy, pair: Pair, settings: GenerateSettings) -> Generated:
    """The report of a decode."""
    from specdec.generated import Generated, GenerateStatistics
    from specdec.summary import DescribedPair

    counts, ran = result.statistics, result.strategy or strategy
    return Generated(
        strategy=ran.name,
        parameters=ran.parameters,
        automatic=ran != strategy,
        prompt=prompt,
        text=result.text,
        tokens=result.tokens,
        finished_by=result.finished_by,
        settings=settings,
        pair=DescribedPair.of(pair),
        statistics=GenerateStatistics.of(
            counts, tokens_per_second=counts.tokens_per_second, drafted_tokens=counts.drafted_tokens
        ),
        lossless_claimed=result.lossless_claimed,
    )


def stream(terminal: Terminal, pair: Pair, decoding: Decoding, prompt: str) -> bool:
    """Print the text round by round; returns whether a person interrupted it."""
    console = terminal.console
    printer = Printer(terminal, pair)
    interrupted = False
    try:
        with terminal.doing(STARTING):
            first = next(decoding, None)
        if console.is_terminal:
            console.print(prompt, style="dim", end="", markup=False, soft_wrap=True)
        for step in chain([] if first is None else [first], decoding):
            with uninterrupted():
                printer.show(step.tokens, step.accepted, step.text)
    except KeyboardInterrupt:
        interrupted = True
    printer.rest(decoding.result().text)
    console.print()
    return interrupted


class Printer:
    """Shows text: drafted tokens in one style, the target's own in another."""

    def __init__(self, terminal: Terminal, pair: Pair) -> None:
        self._console = terminal.console
        self._tokenizer = pair.tokenizer
        self._tokens: tuple[int, ...] = ()
        self._shown = 0

    def show(self, tokens: tuple[int, ...], accepted: int, text: str) -> None:
        """Show one round: the first `accepted` of its `tokens` were drafted; `text` is new."""
        drafted = self._length(self._tokens + tokens[:accepted]) - self._shown if accepted else 0
        self._tokens += tokens
        self._shown += len(text)
        self._print(text[: max(0, drafted)], DRAFTED)
        self._print(text[max(0, drafted) :], OWN)

    def rest(self, text: str) -> None:
        """Show what an interrupted decode committed and did not show."""
        self._print(text[self._shown :], OWN)

    def _length(self, tokens: tuple[int, ...]) -> int:
        """Number of complete characters in `tokens`."""
        assert self._tokenizer is not None
        return len(str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).rstrip("\ufffd"))

    def _print(self, text: str, style: str) -> None:
        if text:
            self._console.print(text, style=style, end="", markup=False, soft_wrap=True)
            self._console.file.flush()
