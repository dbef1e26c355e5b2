"""How much one submission may compute, so that no driver takes a slow device for a dead one.

amdgpu gives up after 10 s, xe after 5 s. A device that has not been measured yet is taken for a slow one of
its kind; what steps take tells more.
"""

from __future__ import annotations

import math

SECONDS = 0.5  # of a submission at most, by what was measured
ENOUGH_OPERATIONS = 1e10  # of a step, to tell a device's speed by
# By the type of device; on a CPU nothing watches. An integrated GPU of 0.3 TFLOP/s takes a sixth of a second.
FIRST_OPERATIONS = {"cpu": math.inf, "discrete": 2e11}
FEW_OPERATIONS = 5e10


class Budget:
    """The operations that a submission of one device may have."""

    def __init__(self, device_type: str) -> None:
        self.operations = FIRST_OPERATIONS.get(device_type, FEW_OPERATIONS)

    def learn(self, operations: float, seconds: float) -> None:
        """A step of so many operations took so long, waiting for other ranks included."""
        if operations >= ENOUGH_OPERATIONS and math.isfinite(self.operations):
            self.operations = min(self.operations, operations / max(seconds, 1e-9) * SECONDS)
