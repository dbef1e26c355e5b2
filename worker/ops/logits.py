"""The op by which a device looks through its logits, so that the host looks at few of them.

coordinator/likeliest.py says which logits make a group. A row of the buffer `logit_groups` holds the highest
logit of each group, then each group's sum of exp(logit - highest), 0 where the highest is not finite. The
highest ones are exact, so what the host finds with them has the same bits on every driver.
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.likeliest import num_groups

LOGIT_GROUPS = "logit_groups"


@dataclass(frozen=True)
class LogitGroups:
    """logit_groups[row] = highest logits and sums of the groups of logits[row], of so many logits."""

    count: int

    @property
    def num_groups(self) -> int:
        return num_groups(self.count)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("logits",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((LOGIT_GROUPS,))
