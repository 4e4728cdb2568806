"""`specdec simulate`: one strategy on simulated devices, alone and under load."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import MOST_TOKENS, Seed, SystemOptions
from sim.cli.traffic import TrafficOptions, parse_schedule, serving_option
from specdec.cli.console import Terminal
from specdec.cli.options import Json, StrategyOptions
from specdec.cli.parsing import parameters, refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.traffic.schedule import Several
    from specdec.strategy import DecodingStrategy


def simulate(
    chosen: StrategyOptions,
    setup: SystemOptions,
    serving: TrafficOptions,
    schedule: Annotated[
        str | None,
        serving_option(
            metavar="LENGTHS",
            help="Draft lengths by running batch: 4@16,2@64,off is 4 up to 16 running, 2 up to 64, then none. adaptive:6 takes "
            "what is the fastest up to 6 at the running batch and the counted acceptance.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens to simulate.")] = 20_000,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Simulate one strategy: throughput with its interval, idle time of both models, rounds.

    The strategy object itself is run, on simulated devices. The exact long-run speed is that of its compiled chain; only where
    a draft races the target under jitter, the chain takes mean times. With --arrivals, --trace or --concurrency, requests queue
    for replicas of an engine that decodes in batches, reads prompts in chunks, and preempts when its KV cache is full.

    Examples:
      specdec simulate --strategy pearl --draft-length 5 --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec simulate --strategy speculative --profile profile.json --json -
      specdec simulate --strategy pearl --acceptance markov:0.85,0.6 --draft-step 1ms --target-step 5ms --jitter 0.1
      specdec simulate --strategy pearl --profile profile.json --arrivals poisson:2/s --replicas 2
      specdec simulate --strategy speculative --profile profile.json --arrivals poisson:9/s --schedule 4@2,off
    """
    terminal = Terminal(json)
    from sim.setup.acceptance import beyond_measured
    from sim.study.load import simulate_traffic
    from sim.study.one import simulate as simulate_one

    strategy, acceptance = chosen.create(), setup.acceptance_model()
    traffic, objectives = serving.traffic(), serving.objectives()
    system = serving.system(setup.system())
    several: DecodingStrategy | Several = strategy
    server = serving.server(setup.kv_tokens(drafts=strategy.drafts))
    remarks: tuple[str, ...] = ()
    if schedule is not None:
        set_length = parameters(chosen.settings).get("draft_length")
        lengths = {"--draft-length": chosen.draft_length, "--set draft_length": set_length}
        refuse(lengths, "has no effect with --schedule: give one of the two")
        if traffic is None:
            raise InputError("--schedule has no effect without requests: give --arrivals, --trace or --concurrency too")
        several = parse_schedule(schedule, strategy, system)
        strategy = several.chains[0].strategy
        remarks = beyond_measured(acceptance, max(int(chain.tested.max(initial=0)) for chain in several.chains))
    result = simulate_one(strategy, acceptance, system, tokens=tokens, seed=seed)
    if traffic is not None:
        runs = 1 if serving.replications is None else serving.replications
        load = simulate_traffic(several, acceptance, system, traffic, server, objectives, replications=runs, seed=seed)
        result = replace(result, load=load, remarks=remarks or result.remarks)
    terminal.report(result)
    setup.remark(terminal.errors)
