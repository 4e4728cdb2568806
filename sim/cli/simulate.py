"""`specdec simulate`: one strategy on simulated devices, alone and under load."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from sim.cli.options import MOST_TOKENS, Seed, SystemOptions
from sim.cli.traffic import TrafficOptions
from specdec.cli.console import Terminal
from specdec.cli.options import Json, StrategyOptions


def simulate(
    chosen: StrategyOptions,
    setup: SystemOptions,
    serving: TrafficOptions,
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
    """
    terminal = Terminal(json)
    from sim.study.load import simulate_traffic
    from sim.study.one import simulate as simulate_one

    strategy, acceptance = chosen.create(), setup.acceptance_model()
    traffic, objectives = serving.traffic(), serving.objectives()
    system = serving.system(setup.system())
    server = serving.server(setup.kv_tokens(drafts=strategy.drafts))
    result = simulate_one(strategy, acceptance, system, tokens=tokens, seed=seed)
    if traffic is not None:
        runs = 1 if serving.replications is None else serving.replications
        load = simulate_traffic(strategy, acceptance, system, traffic, server, objectives, replications=runs, seed=seed)
        result = replace(result, load=load)
    terminal.report(result)
    setup.remark(terminal.errors)
