"""Many sequences that arrive over time: requests, replicas, costs, metrics. Imports `setup` and `stream`."""
