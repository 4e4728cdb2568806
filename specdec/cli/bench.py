"""`specdec bench`: measure strategies side by side on one pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from specdec.cli.completion import strategy_names
from specdec.cli.console import LOADING, Terminal
from specdec.cli.options import Json, ModelOptions, PictureOptions, Seed, VerificationOption, model_option
from specdec.cli.parsing import parsed_lengths, several
from specdec.errors import InputError
from specdec.synthetic import rule_of, synthetic

if TYPE_CHECKING:
    from specdec.bench import BenchReport
    from specdec.pair import Pair
    from specdec.pictures import Theme
    from specdec.prompts import Chat
    from specdec.report import Progress
    from specdec.text import Prompt

FULL_REPEATS, REPEATS = 5, 3
SECONDS = 200.0
TEMPERATURES = (0.0, 1.0)
BUNDLED_PROMPTS = 6
"""Two of each kind, so that three repeats take minutes."""


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, on which prompts, and for how long."""

    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Strategies to measure, such as pearl,speculative or ./file.py:Class; all installed ones unless given.",
            autocompletion=strategy_names,
        ),
    ] = None
    draft_lengths: Annotated[
        str | None, typer.Option(metavar="LIST", help="Draft lengths of every strategy that has one, such as 1,2,4 or 1-8.")
    ] = None
    temperature: Annotated[
        list[float] | None, typer.Option(help="0 is greedy; may be repeated. Both 0 and 1 unless given.")
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Prompts: text, or JSON as in HumanEval, GSM8K, MT-bench, ShareGPT and others."),
    ] = None
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Take each prompt as a user's message, by the target's chat template; measure later turns too."
        ),
    ] = False
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of the made-up prompts of shapes, which read no text; 128 unless given.")
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Take only the first prompts or conversations; 6 of the 12 bundled ones unless given."),
    ] = None
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate for each prompt.")] = 64
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats; 3, or 5 with --full, unless given.")] = None
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop decoding after this long; 200, or never with --full, unless given.")
    ] = None
    full: Annotated[bool, typer.Option("--full", help="Draft lengths 1 to 8, all bundled prompts; takes many minutes.")] = False
    against: Annotated[
        Literal["hf"] | None,
        typer.Option(help="Measure peers too, in the same run: hf is transformers' generate, plain and with assistant_model."),
    ] = None
    verification: VerificationOption = "token"
    seed: Seed = 0

    def check(self, models: ModelOptions) -> None:
        """Refuse options that are unknown, contradict each other or would be ignored, before the models are loaded."""
        from specdec.sampling import Sampling

        models.check()
        rule_of(self.verification)
        for value in self.temperature or ():
            Sampling(value)
        forced = synthetic(self.verification)
        if models.shapes and not forced:
            raise InputError(
                f"{models.shapes}: drafts of random weights are accepted by accident: give --verification synthetic:0.8"
            )
        if self.against and forced:
            raise InputError(
                f"--against {self.against}: a peer verifies by itself, and {self.verification} cannot be forced on it"
            )
        self._check_prompts(models)
        self._check_lengths(models)

    def _check_prompts(self, models: ModelOptions) -> None:
        if models.shapes and self.prompts:
            raise InputError(
                f"--prompts {self.prompts}: shapes have no tokenizer to read it with: give --prompt-tokens instead"
            )
        if models.shapes and self.chat:
            raise InputError(f"--chat is for models that read text, and {models.shapes} have no tokenizer: leave it out")
        if self.prompt_tokens is not None and not models.shapes:
            raise InputError("--prompt-tokens is for shapes, and these models read text: give --prompts instead")

    def _check_lengths(self, models: ModelOptions) -> None:
        """Refuse unknown strategies, and draft lengths if no strategy has one."""
        from specdec.strategy import DraftingStrategy, available, create

        chosen = [type(create(name)) for name in several(self.strategy)] or list(available().values())
        with_lengths = any(issubclass(kind, DraftingStrategy) for kind in chosen) or self.against is not None
        if parsed_lengths(self.draft_lengths) and not (with_lengths and (models.drafts or self.strategy)):
            names = ", ".join(kind.name for kind in chosen)
            reason = f"none of {names} has a draft length" if models.drafts else "there is no draft model"
            raise InputError(f"--draft-lengths {self.draft_lengths}: {reason}: leave it out")

    def chosen_prompts(self, shapes: str) -> tuple[Sequence[Prompt | Chat], str]:
        """The prompts to decode and their name: those of a file, the bundled ones, or made-up ones for shapes."""
        from specdec.prompts import bundled, bundled_chats, load, load_chats

        if shapes:
            from specdec.runtime.timing import CONTEXT_TOKENS, made_up_context

            length = self.prompt_tokens or CONTEXT_TOKENS
            return [made_up_context(length)] * (self.limit or BUNDLED_PROMPTS), f"made up, {length} tokens each"
        name = f"{self.prompts or 'bundled'}{' (chat)' if self.chat else ''}"
        if self.prompts:
            return (load_chats if self.chat else load)(self.prompts)[: self.limit], name
        chosen = bundled_chats() if self.chat else bundled()
        return chosen[: self.limit or (None if self.full else BUNDLED_PROMPTS)], name

    def run(self, pair: Pair, prompts: Sequence[Prompt | Chat], prompts_file: str, progress: Progress) -> BenchReport:
        """Run the benchmark; returns its report."""
        from specdec.bench import bench, hugging_face, line_up

        lengths = parsed_lengths(self.draft_lengths)
        return bench(
            pair,
            line_up(pair, several(self.strategy), lengths, full=self.full),
            prompts,
            temperatures=self.temperature or TEMPERATURES,
            max_new_tokens=self.max_new_tokens,
            repeats=self.repeats or (FULL_REPEATS if self.full else REPEATS),
            seconds=self.seconds if self.seconds is not None else float("inf") if self.full else SECONDS,
            verification=self.verification,
            seed=self.seed,
            peers=hugging_face(pair, lengths, full=self.full) if self.against else (),
            prompts_file=prompts_file,
            progress=progress,
        )


def bench(
    measure: BenchOptions,
    pictures: PictureOptions,
    models: ModelOptions,
    eager: Annotated[
        bool, model_option("--eager", help="Run transformers' own forwards, neither fused nor as CUDA graphs.")
    ] = False,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="Draw more beside each picture: FILE-length, FILE-prompts, FILE-idle, FILE-position, FILE-predicted.",
        ),
    ] = False,
    json: Json = None,
) -> None:
    """Measure strategies side by side.

    Shows tokens per second, speed-up over autoregressive decoding, acceptance and idle time. Every strategy decodes the same
    prompts, in turn and repeatedly, on the same cores. Takes a few minutes; Ctrl-C ends it early and shows what was measured
    by then.

    Examples:
      specdec bench
      specdec bench --strategy pearl,speculative --draft-lengths 1-8
      specdec bench --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --temperature 0
      specdec bench --prompts HumanEval.jsonl.gz --limit 20 --json results.json
      specdec bench --prompts mt_bench.jsonl --chat --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B
      specdec bench --target shape:llama-8b --draft shape:llama-1b --verification synthetic:0.8
      specdec bench --against hf --json results.json --output results.png
    """
    terminal = Terminal(json)
    paths = pictures.paths()
    if details and not paths:
        raise InputError("--details is for pictures: give --output FILE too")
    with terminal.doing(LOADING):
        measure.check(models)
        prompts, source = measure.chosen_prompts(models.shapes)
        loaded = models.load(eager=eager)
    with loaded as pair:
        report = measure.run(pair, prompts, source, terminal.follow)
    terminal.report(report)
    if report.results:
        draw(report, paths, pictures.theme, details=details)
    if report.settings.interrupted:
        raise KeyboardInterrupt


def draw(report: BenchReport, paths: Sequence[Path], theme: Theme, *, details: bool) -> None:
    """Draw the speed-ups into each file, and their details into files beside it."""
    if not paths:
        return
    from specdec.bench.chart import speedup_chart
    from specdec.bench.details import details as charts_of
    from specdec.pictures import save

    charts = {"": speedup_chart(report, theme)}
    if details:
        charts |= {f"-{name}": chart for name, chart in charts_of(report, theme).items()}
    for ending, chart in charts.items():
        save(chart, *(path.with_stem(path.stem + ending) for path in paths))
