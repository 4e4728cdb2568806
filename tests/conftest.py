"""Settings of all tests: nothing is fetched from a network, models share few cores, and a slow machine is no failure."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a target, its draft and other tests beside them, on two cores

settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")
