"""`specdec simulate`: one strategy on simulated devices, beside what the compiled chain says exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from specdec.cli.console import Output, share
from specdec.cli.options import Json, Parameters, parameters
from specdec.errors import StrategyError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from sim.setup.system import System
    from specdec.strategy import DecodingStrategy

_SERVING = "Serving (needs --arrivals or --trace)"


def simulate(
    strategy: Annotated[str, typer.Option(help="Strategy, as specdec strategies lists them.")] = "pearl",
    draft_length: Annotated[str | None, typer.Option(metavar="N", help="Tokens to draft at once, or auto.")] = None,
    settings: Parameters = None,
    acceptance: options.AcceptanceOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to simulate.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same luck, whatever the strategy.")] = 0,
    draft_step: options.DraftStep = None,
    target_step: options.TargetStep = None,
    target_window: options.TargetWindow = None,
    profile: options.ProfileOption = None,
    gpu: options.Gpu = None,
    target_config: options.TargetConfig = None,
    draft_config: options.DraftConfig = None,
    placement: options.PlacementOption = options.Placement.two,
    together: options.TogetherOption = None,
    network: options.Network = "0s",
    overhead: options.Overhead = None,
    jitter: options.JitterOption = None,
    context: options.Context = 256,
    arrivals: Annotated[
        str | None, typer.Option(help="Requests to serve: poisson:5/s, or gamma:5/s,cv=2.", rich_help_panel=_SERVING)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests to serve, from a trace file.", rich_help_panel=_SERVING)
    ] = None,
    time_scale: Annotated[
        float, typer.Option(help="Stretch the arrivals; 0.5 doubles the load.", rich_help_panel=_SERVING)
    ] = 1,
    requests: Annotated[int | None, typer.Option(help="Take so many requests.", rich_help_panel=_SERVING)] = None,
    input_tokens: Annotated[str, typer.Option(help="Prompt length: 512, or 512,cv=0.5.", rich_help_panel=_SERVING)] = "512",
    output_tokens: Annotated[str, typer.Option(help="Answer length: 256, or 256,cv=1.", rich_help_panel=_SERVING)] = "256",
    replicas: Annotated[int, typer.Option(help="Copies of target and draft.", rich_help_panel=_SERVING)] = 1,
    max_batch: Annotated[int, typer.Option(help="Sequences a replica holds at once.", rich_help_panel=_SERVING)] = 64,
    kv_tokens: Annotated[int | None, typer.Option(help="Cache slots of a replica.", rich_help_panel=_SERVING)] = None,
    prefill_chunk: Annotated[int | None, typer.Option(help="Prompt tokens an iteration.", rich_help_panel=_SERVING)] = None,
    objective_ttft: Annotated[str | None, typer.Option(help="Limit of the first token.", rich_help_panel=_SERVING)] = None,
    objective_tpot: Annotated[str | None, typer.Option(help="Limit of each further one.", rich_help_panel=_SERVING)] = None,
    replications: Annotated[int, typer.Option(help="Repeat with fresh luck.", rich_help_panel=_SERVING)] = 1,
    json: Json = None,
) -> None:
    """Simulate one strategy: throughput with its interval, idle time of both models, rounds.

    The strategy object itself is run, on devices that only hold the clock. Beside it stands the long-run value of its
    compiled chain, which is exact but for a race under jitter: there the chain drafts as many tokens as in mean times. With
    --arrivals or --trace, requests queue for replicas that decode in batches.

    Examples:
      specdec simulate --strategy pearl --draft-length 5 --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec simulate --strategy speculative --profile profile.json --json -
      specdec simulate --strategy pearl --acceptance markov:0.85,0.6 --draft-step 1ms --target-step 5ms --jitter 0.1
      specdec simulate --strategy pearl --profile profile.json --arrivals poisson:2/s --replicas 2
    """
    output = Output(json)
    from specdec.strategy import create

    chosen = create(strategy, **parameters(settings, draft_length))
    system, accepting = options.Setup(
        acceptance,
        draft_step,
        target_step,
        target_window,
        profile,
        gpu,
        target_config,
        draft_config,
        placement,
        together,
        network,
        overhead,
        jitter,
        context,
    ).build()
    if arrivals is None and trace is None:
        report = single_stream(chosen, accepting, system, tokens, seed)
    else:
        from sim.cli.traffic import Traffic, simulate_traffic

        traffic = Traffic(
            arrivals,
            trace,
            time_scale,
            requests,
            input_tokens,
            output_tokens,
            replicas,
            max_batch,
            kv_tokens,
            prefill_chunk,
            objective_ttft,
            objective_tpot,
            replications,
            seed,
        )
        report = single_stream(chosen, accepting, system, tokens, seed) | simulate_traffic(chosen, system, accepting, traffic)
    show(output, report)
    output.write(report)


def single_stream(strategy: DecodingStrategy, acceptance: Acceptance, system: System, tokens: int, seed: int) -> dict[str, Any]:
    """One sequence alone, simulated and exact."""
    from sim.stream.chain import compile_strategy
    from sim.stream.events import run_stream
    from sim.stream.rates import plain_tokens_per_second, rates

    run = run_stream(strategy, acceptance, system, tokens=tokens, seed=seed)
    try:
        exact = float(rates(compile_strategy(strategy, system), acceptance, system).tokens_per_second)
    except StrategyError:  # a memory that does not repeat: simulated, but not compiled
        exact = None
    interval = run.interval()
    return {
        "strategy": strategy.name,
        "parameters": strategy.parameters,
        "tokens_per_second": run.tokens_per_second,
        "tokens_per_second_interval": None if interval is None else list(interval),
        "speedup_over_ar": run.tokens_per_second / float(plain_tokens_per_second(system)),
        "target_idle_share": run.target_idle_share,
        "draft_idle_share": run.draft_idle_share,
        "rounds": run.rounds,
        "closed_form_tokens_per_second": exact,
    }


def show(output: Output, report: dict[str, Any]) -> None:
    """Print a report for people."""
    console = output.console
    chosen = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["parameters"].items())
    console.print(f"[bold]{report['strategy']}[/]{', ' if chosen else ''}{chosen}")
    interval, exact = report["tokens_per_second_interval"], report["closed_form_tokens_per_second"]
    between = f" ({interval[0]:.1f} - {interval[1]:.1f})" if interval else " (too few rounds for an interval)"
    console.print(f"  simulated     {report['tokens_per_second']:.1f} tokens/s{between}")
    console.print(
        "  chain         " + (f"{exact:.1f} tokens/s" if exact is not None else "its memory does not repeat: not compiled")
    )
    console.print(f"  speed-up      {report['speedup_over_ar']:.2f}x over autoregressive decoding")
    console.print(f"  idle          target {share(report['target_idle_share'])}, draft {share(report['draft_idle_share'])}")
    console.print(f"  rounds        {report['rounds']}")
    if "requests" in report:
        console.print(f"[bold]Serving {report['requests']} requests[/]: {report['saturation']}")
        for name in ("ttft", "tpot", "e2e"):
            found = report[f"{name}_seconds"]
            values = ", ".join(f"{key} {found[key]:.4g} s" for key in ("mean", "p50", "p90", "p99") if found[key] is not None)
            console.print(f"  {name:<13} {values or 'not measured'}")
        console.print(f"  goodput       {report['goodput']:.3g} requests/s")
        console.print(f"  simulated at  {report['simulated_requests_per_wall_second']:,.0f} requests per second of computing")
