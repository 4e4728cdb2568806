"""Timelines and tunings as charts. Imports all rooms but `cli` and `checks`."""
