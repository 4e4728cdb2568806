"""`specdec generate`: one text, streamed, with the draft's share of it made visible."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import options
from specdec.cli.console import Output, share, uninterrupted
from specdec.errors import InputError
from specdec.synthetic import require_text

if TYPE_CHECKING:
    from specdec.batch import Result
    from specdec.decoding import Decoding
    from specdec.pair import Pair

DRAFTED, OWN = "green", "bold"
_SAMPLING = "Sampling"


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue; - reads standard input.")] = None,
    prompt_file: Annotated[str | None, typer.Option(metavar="FILE", help="Read the prompt from a file.")] = None,
    strategy: Annotated[str, typer.Option(help="Decoding strategy; see specdec strategies.")] = "pearl",
    draft_length: Annotated[str | None, typer.Option(metavar="TOKENS", help="Tokens to draft at once, or auto.")] = None,
    settings: options.Parameters = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End after this text; may be repeated.")] = None,
    target: options.Target = None,
    draft: options.Draft = None,
    device: options.Device = None,
    draft_device: options.DraftDevice = None,
    dtype: options.DTypeOption = None,
    lane: options.LaneOption = options.Lane.auto,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.", rich_help_panel=_SAMPLING)] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest of this mass.", rich_help_panel=_SAMPLING)] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep what has this share of the likeliest.", rich_help_panel=_SAMPLING)
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: repeat less.", rich_help_panel=_SAMPLING)] = None,
    verification: options.VerificationOption = "token",
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same tokens; random unless given.", rich_help_panel=_SAMPLING)
    ] = None,
    json: options.Json = None,
) -> None:
    """Continue a text, and show which tokens the draft proposed.

    On a terminal, drafted tokens that the target accepted look different from the target's own. The text goes to standard
    output, the statistics to standard error. Ctrl-C ends it; the text so far is kept.

    Examples:
      specdec generate "ROMEO:"
      specdec generate "def fibonacci(n):" --strategy speculative --draft-length 3 --temperature 0
      specdec generate --prompt-file story.txt --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --stop "THE END"
      echo "Question: How many legs have 3 cats?" | specdec generate - --json result.json
    """
    output = Output(json)
    require_text(verification)
    if shapes := options.shapes_in(target, draft):
        raise InputError(f"{shapes}: random weights and no tokenizer make no text: measure them with specdec bench")
    text = read_prompt(prompt, prompt_file)
    from specdec.batch import sampling_of
    from specdec.decoding import Decoding
    from specdec.strategy import create

    seed = random.randrange(2**32) if seed is None else seed
    chosen = create(strategy, **options.parameters(settings, draft_length))
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    sampling_of(sampling)  # refuse what is out of range before the models are loaded
    with options.load_pair(target, draft, device, draft_device, dtype, lane) as pair:
        decoding = Decoding(
            pair,
            chosen,
            text,
            max_new_tokens=max_new_tokens,
            stop_strings=stop or (),
            verification=verification,
            seed=seed,
            **sampling,
        )
        interrupted = stream(output, pair, decoding, text)
        result = decoding.result()
        from specdec.bench import described, summary

        report = {
            "prompt": text,
            "text": result.text,
            "tokens": list(result.tokens),
            "finished_by": result.finished_by,
            "strategy": chosen.name,
            "parameters": chosen.parameters,
            "settings": {**sampling, "max_new_tokens": max_new_tokens, "verification": verification, "seed": seed},
            "pair": described(pair),
            "statistics": {"tokens_per_second": result.statistics.tokens_per_second, **summary(result.statistics)},
        }
    show(output, result, str(chosen))
    output.write(report)
    if interrupted:
        raise KeyboardInterrupt


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt from where it is."""
    if (prompt is None) == (prompt_file is None):
        raise InputError("one prompt is needed: give it as the argument, as - for standard input, or by --prompt-file")
    if prompt_file is not None:
        try:
            return Path(prompt_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"prompt file '{prompt_file}' cannot be read ({reason}): give a text file") from error
    assert prompt is not None
    return sys.stdin.read() if prompt == "-" else prompt


def stream(output: Output, pair: Pair, decoding: Decoding, prompt: str) -> bool:
    """Print the text as it comes; whether it was interrupted."""
    console = output.console
    if console.is_terminal:
        console.print(prompt, style="dim", end="", markup=False, soft_wrap=True)
    printer = Printer(output, pair)
    interrupted = False
    try:
        for step in decoding:
            with uninterrupted():
                printer.show(step.tokens, step.accepted, step.text)
    except KeyboardInterrupt:
        interrupted = True
    printer.rest(decoding.result().text)
    console.print()
    return interrupted


class Printer:
    """Shows text with the part of the draft in one style and the target's own in another."""

    def __init__(self, output: Output, pair: Pair) -> None:
        self._console = output.console
        self._tokenizer = pair.tokenizer
        self._tokens: tuple[int, ...] = ()
        self._shown = 0

    def show(self, tokens: tuple[int, ...], accepted: int, text: str) -> None:
        """One round: `tokens`, the first `accepted` of them drafted, and the new `text`."""
        drafted = self._length(self._tokens + tokens[:accepted]) - self._shown if accepted else 0
        self._tokens += tokens
        self._shown += len(text)
        self._print(text[: max(0, drafted)], DRAFTED)
        self._print(text[max(0, drafted) :], OWN)

    def rest(self, text: str) -> None:
        """What an interrupted decode had committed and not shown."""
        self._print(text[self._shown :], OWN)

    def _length(self, tokens: tuple[int, ...]) -> int:
        """Characters of `tokens` that are complete."""
        assert self._tokenizer is not None
        return len(str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).rstrip("\ufffd"))

    def _print(self, text: str, style: str) -> None:
        if text:
            self._console.print(text, style=style, end="", markup=False, soft_wrap=True)
            self._console.file.flush()


def show(output: Output, result: Result, strategy: str) -> None:
    """Print the statistics."""
    statistics, console = result.statistics, output.errors
    ended = result.finished_by or "interrupted"
    console.print(f"\n[bold]{strategy}[/]: {len(result.tokens)} tokens ({ended}), {statistics.tokens_per_second:.1f} tokens/s")
    console.print(
        f"{statistics.rounds} rounds, mean acceptance length {statistics.mean_acceptance_length:.2f}, "
        f"{share(statistics.draft_acceptance_rate)} of {statistics.drafted_tokens} drafted tokens accepted; "
        f"idle: target {share(statistics.target_idle_share)}, draft {share(statistics.draft_idle_share)}",
        soft_wrap=True,
    )
    if output.console.is_terminal:
        console.print(f"[{DRAFTED}]drafted and accepted[/] [{OWN}]the target's own[/]")
