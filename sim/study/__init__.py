"""Questions and their answers as reports: simulate, tune, load, validate. Imports `setup`, `stream` and `traffic`."""
