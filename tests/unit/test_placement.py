"""A placement knows each rank's host, stage, group and leaders, and refuses what can't be."""

import pytest

from tplaunch.coordinator.split.placement import Placement

TWO_BY_TWO = Placement(hosts=(0, 0, 1, 1, 1), stages=(0, 1, 0, 1, 1))


def test_ranks_of_one_host_are_one_group() -> None:
    placement = Placement.single(3)
    assert (placement.num_ranks, placement.num_hosts, placement.num_stages) == (3, 1, 1)
    assert placement.group(1) == placement.local_group(1) == (0, 1, 2)
    assert placement.leaders(2) == (0,)


def test_a_group_is_a_stage_over_all_hosts() -> None:
    assert TWO_BY_TWO.num_stages == TWO_BY_TWO.num_hosts == 2
    assert TWO_BY_TWO.group(3) == TWO_BY_TWO.ranks_of_stage(1) == (1, 3, 4)
    assert TWO_BY_TWO.local_group(4) == (3, 4)
    assert TWO_BY_TWO.leaders(4) == TWO_BY_TWO.leaders(1) == (1, 3)
    assert TWO_BY_TWO.ranks_of_host(1) == (2, 3, 4)


@pytest.mark.parametrize(
    ("hosts", "stages"),
    [((), ()), ((0, 1), (0,)), ((1, 1), (0, 0)), ((0, 1, 0), (0, 0, 0)), ((0, 2), (0, 0)), ((0, 0), (0, 2))],
)
def test_what_can_not_be_is_refused(hosts: tuple[int, ...], stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ranks"):
        Placement(hosts, stages)
