"""The second phase of an all-reduce: ranks sum slices of their own, and put them together in slot 0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, CollectiveError, CollectiveTimeout
from tplaunch.collectives.arena import SLICE_UNIT, rank_slice

Floats = np.typing.NDArray[np.float32]


@given(num_ranks=st.integers(1, 32), count=st.integers(0, 10000))
@examples(200)
def test_slices_cover_all_elements_once(num_ranks: int, count: int) -> None:
    slices = [rank_slice(rank, num_ranks, count) for rank in range(num_ranks)]
    covered = [element for each in slices for element in range(count)[each]]
    assert covered == list(range(count))
    assert all(each.start % SLICE_UNIT == 0 or each.start == count for each in slices)


class Caller:
    """One rank's all-reduces of either kind, one after another."""

    def __init__(self, rank: Collective) -> None:
        self.rank, self.sequence, self.parity = rank, 0, 1

    def one_shot(self, summand: Floats) -> Floats:
        partials = self._partials(summand)
        return _added(partials)

    def two_phase(self, summand: Floats) -> Floats:
        partials = self._partials(summand)
        own = rank_slice(self.rank.rank, self.rank.num_ranks, summand.size)
        partials[0, own] = _added(partials[:, own])
        self.sequence += 1
        self.rank.all_gather(self.sequence)
        total: Floats = partials[0].copy()
        return total

    def _partials(self, summand: Floats) -> Floats:
        self.sequence += 1
        self.parity ^= 1
        partials: Floats = self.rank.partials(self.parity)[:, : summand.size]
        partials[self.rank.write_slot] = summand
        self.rank.all_reduce(self.sequence, self.parity, summand.size)
        return partials


def _added(partials: Floats) -> Floats:
    total: Floats = partials[0].copy()
    for partial in partials[1:]:
        total += partial
    return total


@given(
    num_ranks=st.integers(2, 6),
    calls=st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
@examples(30)
def test_both_ways_give_the_same_bits_in_any_order(
    num_ranks: int, calls: list[tuple[bool, int]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    summands = [random.standard_normal((num_ranks, count)).astype(np.float32) for _, count in calls]

    def run(rank: Collective) -> None:
        caller = Caller(rank)
        for (in_two_phases, _), rows in zip(calls, summands, strict=True):
            way = caller.two_phase if in_two_phases else caller.one_shot
            assert way(rows[rank.rank]).tobytes() == _added(rows).tobytes()

    with connected("shared-memory", num_ranks) as ranks:
        assert on_ranks(ranks, run) == [None] * num_ranks


def test_a_gather_follows_a_reduce_once() -> None:
    with connected("shared-memory", 2) as ranks:
        with pytest.raises(CollectiveError, match=r"as 1 without an all_reduce\(\) before it"):
            ranks[0].all_gather(1)
        on_ranks(ranks, lambda rank: rank.all_reduce(1, 0, 64))
        with pytest.raises(CollectiveError, match="as 3 where 2 was due"):
            ranks[0].all_gather(3)
        assert on_ranks(ranks, lambda rank: rank.all_gather(2)) == [None, None]
        with pytest.raises(CollectiveError, match="as 3 without"):
            ranks[0].all_gather(3)
        assert on_ranks(ranks, lambda rank: rank.all_reduce(3, 1, 64)) == [None, None]


@pytest.mark.parametrize(("kind", "num_ranks"), [("zmq-ring", 2), ("shared-memory", 1)])
def test_a_collective_without_phases_says_so(kind: str, num_ranks: int) -> None:
    with connected(kind, num_ranks) as ranks:
        on_ranks(ranks, lambda rank: rank.all_reduce(1, 0, 4))
        with pytest.raises(CollectiveError, match="which has no second phase"):
            ranks[0].all_gather(2)


def test_ranks_that_disagree_on_the_way_do_not_go_on() -> None:
    def run(rank: Collective) -> None:
        rank.all_reduce(1, 0, 64)
        if rank.rank == 1:
            rank.all_gather(2)
        else:
            rank.all_reduce(2, 1, 64)

    with connected("shared-memory", 3) as ranks:
        errors = on_ranks(ranks, run)
    assert any("is the second phase on rank 1 but the first phase of one on rank 0" in str(e) for e in errors)
    assert all(isinstance(error, CollectiveError) for error in errors)


def test_a_timeout_in_the_second_phase_names_who_is_missing() -> None:
    def run(rank: Collective) -> None:
        rank.all_reduce(1, 0, 64)
        if rank.rank != 2:
            rank.all_gather(2)

    with connected("shared-memory", 3, timeout_seconds=1) as ranks:
        errors = on_ranks(ranks, run)
    assert [type(error) for error in errors] == [CollectiveTimeout, CollectiveTimeout, type(None)]
    assert [error.rank for error in errors[:2]] == [2, 2]
