"""One sequence: the compiled chain and its exact speed, the simulation by events, the timeline. Imports `setup`."""
