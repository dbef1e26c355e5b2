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
# Of a submission with a single op, which can't be cut: two seconds of a device as slow as its kind gets.
BUDGETS_OF_AN_OP = 4
FALLEN = 2  # times as many operations as a submission may have: it is worth recording again


class Budget:
    """The operations that a submission of one device may have."""

    def __init__(self, device_type: str) -> None:
        self.operations = FIRST_OPERATIONS.get(device_type, FEW_OPERATIONS)

    @property
    def of_an_op(self) -> float:
        """The operations that one op may have."""
        return BUDGETS_OF_AN_OP * self.operations

    def has_fallen_below(self, before: float) -> bool:
        """Tells whether submissions that were cut by the budget of before are much too long by now."""
        return self.operations * FALLEN < before

    def learn(self, operations: float, seconds: float) -> None:
        """A step of so many operations took so long, waiting for other ranks included."""
        if operations >= ENOUGH_OPERATIONS and math.isfinite(self.operations):
            self.operations = min(self.operations, operations / max(seconds, 1e-9) * SECONDS)
