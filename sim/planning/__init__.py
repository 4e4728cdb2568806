"""The plan of a deployment: methods, candidates, screening, decision, flags. Imports all rooms but `pictures` and `cli`."""
