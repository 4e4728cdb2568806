"""The plan of a deployment: candidates, screening, decision, flags. Imports all rooms but `pictures` and `cli`."""
