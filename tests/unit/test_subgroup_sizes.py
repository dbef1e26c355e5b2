"""The size of subgroups that kernels ask for: it divides their workgroups, and the device has it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.test_device_kinds import CARD
from tplaunch.worker.vulkan.subgroups import ALL_LANES, SubgroupSizes

RDNA = SubgroupSizes(least=32, most=64, required=64, full=True)
GCN = SubgroupSizes(least=64, most=64, full=True)
OLD = SubgroupSizes(least=8, most=32)


@pytest.mark.parametrize(
    ("sizes", "num_invocations", "size", "flags"),
    [
        (RDNA, 64, 64, ALL_LANES),
        (RDNA, 128, 64, ALL_LANES),
        (RDNA, 32, 32, ALL_LANES),  # narrower than the subgroups of the others
        (RDNA, 96, 0, 0),  # three subgroups of 32 would do, but all kernels here are made for those of 64
        (GCN, 64, 0, ALL_LANES),  # it has no other
        (GCN, 32, 0, 0),
        (OLD, 64, 0, 0),
    ],
)
def test_workgroups_are_whole_subgroups(
    sizes: SubgroupSizes, num_invocations: int, size: int, flags: int
) -> None:
    assert sizes.of_workgroup(num_invocations) == size
    assert sizes.flags(num_invocations, size) == flags


def test_grids_are_made_for_the_widest_subgroups_that_may_come() -> None:
    assert (RDNA.widest, GCN.widest, OLD.widest) == (64, 64, 32)
    assert SubgroupSizes(least=8, most=32, required=16).widest == 16


@pytest.mark.parametrize(
    ("least", "required", "shuffles", "lanes"),
    [
        (32, 64, True, 64),
        (32, 0, True, 32),
        (8, 16, True, 16),
        (8, 0, True, 0),
        (8, 8, True, 0),
        (32, 64, False, 0),
    ],
)
def test_attention_has_teams_where_subgroups_are_wide(
    least: int, required: int, shuffles: bool, lanes: int
) -> None:
    """And shuffle; where each kernel may get another size, all sizes must be wide."""
    changes = {"min_subgroup_size": least, "required_subgroup_size": required, "max_subgroup_size": 64}
    card = dataclasses.replace(CARD, subgroup_shuffle=shuffles, **changes)  # type: ignore[arg-type]
    assert card.team_lanes == lanes
    assert dataclasses.replace(card, type="cpu").team_lanes == 0
