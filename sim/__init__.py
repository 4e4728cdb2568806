"""Strategies on simulated devices: compiled to exact chains, run by events, tuned and drawn.

    acceptance  placeholder               how often a guess is accepted; text without content
    latency  roofline  profiles  system   how long a forward takes; devices
    chain  rates  plan                    a strategy as a finite chain; exact speeds; the best length and strategy
    events  run  timeline  charts         the same strategy under SimPy; pictures

It knows no strategy: they come in as objects. The modules are imported where they are used; nothing is imported here.
"""
