"""Types of the arrays that the simulator works on."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Int32s: TypeAlias = NDArray[np.int32]
Flags: TypeAlias = NDArray[np.bool_]
