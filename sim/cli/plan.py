"""`specdec plan`: which method, which draft length, where, and how many GPUs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import Seed, SystemOptions
from sim.cli.question import ObjectiveOptions, Question, SearchOptions, SourceOptions
from sim.cli.traffic import TrafficOptions
from specdec.cli.console import Terminal
from specdec.cli.options import Json
from specdec.cli.parsing import refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.planning.report import Plan
    from sim.planning.study import Decided

result_option = partial(typer.Option, rich_help_panel="Result")


def plan(
    sources: SourceOptions,
    setup: SystemOptions,
    serving: TrafficOptions,
    wanted: ObjectiveOptions,  # type: ignore[valid-type]
    search: SearchOptions,
    emit: Annotated[
        str | None, result_option(metavar="ENGINE", help="Print the flags of vllm, sglang, llama.cpp or nano-pearl.")
    ] = None,
    save: Annotated[str | None, result_option(metavar="FILE", help="Keep the plan, to check it later.")] = None,
    report: Annotated[
        str | None,
        result_option(metavar="FILE.html", help="A page with all figures, which are also kept beside it as SVG and PNG."),
    ] = None,
    check: Annotated[
        str | None,
        result_option(
            metavar="FILE", help="Simulate a saved plan again: ten times the requests, other draws, one replica fewer."
        ),
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Find the deployment with the fewest GPUs that meets all objectives: method, draft length, placement, replicas.

    Step times and acceptance come from runs of an engine (--from), a profile (--profile), or a GPU's data sheet (--gpu) and a
    stated acceptance. Candidates are screened by their exact chains and decided by simulation of the same requests. The verdict
    says what binds, what comes next, and the load or acceptance at which the answer changes.

    Examples:
      specdec plan --from results/ --trace azure.csv --ttft-p99 500ms --tpot-p99 40ms --emit vllm
      specdec plan --profile profile.json --arrivals poisson:5/s --e2e-p95 10s --price 2.5 --save plan.json
      specdec plan --gpu H100 --target-config qwen3-8b --draft-config qwen3-0.6b --acceptance 0.7 --arrivals poisson:5/s
      specdec plan --from results/ --trace azure.csv --ttft-p99 500ms --report plan.html
      specdec plan --check plan.json
    """
    terminal, keep = Terminal(json), Terminal(save)
    question = Question(sources, setup, serving, wanted, search)
    if check is not None:
        if question.arguments():
            raise InputError(
                f"{question.arguments()[0]} has no effect with --check, which asks what the plan was asked: leave it out"
            )
        refuse(
            {"--report": report, "--emit": emit, "--save": save},
            "has no effect with --check, which plans nothing: leave it out",
        )
        _check(check, terminal, seed)
        return
    from sim.planning.candidates import BATCHES, STRATEGIES
    from sim.planning.emit import ENGINES
    from sim.planning.emit import emit as flags
    from sim.planning.study import Limits, decide, reported
    from sim.planning.trials import Trials

    if emit is not None and emit not in ENGINES:
        raise InputError(f"--emit {emit} is not known: give one of {', '.join(ENGINES)}")
    if report is not None:
        from sim.pictures.plan_report import checked

        checked(report)
    trials = Trials(question.traffic(), question.objectives(), serving.server(), seed)
    methods = question.methods()
    decided = decide(
        trials,
        methods,
        Limits(search.max_gpus, search.price),
        strategies=search.strategy or STRATEGIES,
        batches=search.batch_limit or BATCHES,
        schedules=search.schedules,
        progress=terminal.follow,
    )
    provenance = {**question.kv_known(methods), "traffic": question.traffic_words()}
    result = reported(decided, question.target_name, provenance)
    result = replace(result, command=(*question.arguments(), "--seed", str(seed)), files=question.files())
    terminal.report(result)
    if not sources.runs:
        question.timed.remark(terminal.errors)
    keep.write(result.to_dict())
    if report is not None:
        _report(decided, result, report, terminal)
    if emit is not None:  # last, since an engine that does not serve the plan is refused, and the plan is kept all the same
        terminal.console.print()
        terminal.console.print(flags(result, emit), markup=False, soft_wrap=True)


def _report(decided: Decided, plan: Plan, path: str, terminal: Terminal) -> None:
    """Compute the curves of a plan and write its page."""
    from sim.pictures.plan_report import write_plan_report
    from sim.planning.curves import curves

    folder = write_plan_report(plan, curves(decided, terminal.follow), path)
    terminal.errors.print(f"Wrote {path}, and its figures to {folder}/")


def _check(path: str, terminal: Terminal, seed: int) -> None:
    """Ask a saved plan's question again, with more requests; exit code 1 if it does not hold."""
    from sim.planning.candidates import BATCHES, STRATEGIES
    from sim.planning.check import TIMES
    from sim.planning.check import check as again
    from sim.planning.report import Plan
    from sim.planning.trials import Trials

    saved = Plan.read(path)
    *arguments, _, first_seed = saved.command or ("--seed", "0")
    if not saved.command:
        raise InputError(f"{path} was not made by specdec plan --save, so its question is not known: save it so")
    question = Question.parsed(arguments)
    now = question.files()
    changed = [name for name, digest in saved.files.items() if now.get(name) != digest]
    if changed:
        raise InputError(f"{changed[0]} is not the file that {path} was made from: plan again")
    other = seed or int(first_seed) + 1
    trials = Trials(question.traffic(TIMES), question.objectives(), question.serving.server(), other)
    search = question.search
    found = again(saved, trials, question.methods(), search.strategy or STRATEGIES, search.batch_limit or BATCHES)
    terminal.report(found)
    if not found.holds:
        raise typer.Exit(1)
