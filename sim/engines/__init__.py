"""What serving engines and benchmark tools report: read into `EngineRun`, and identified as a `Profile`. Imports `setup`."""
