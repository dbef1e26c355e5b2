"""Tests the contract that every kind of collective keeps."""

import mmap
import secrets
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.collectives_group import (
    KINDS,
    ON_HOSTS,
    connected,
    create,
    on_ranks,
    open_things,
    soon,
    unconnected,
)
from tplaunch import collectives
from tplaunch.collectives import Collective, CollectiveAborted, CollectiveError, CollectiveTimeout

kinds = pytest.mark.parametrize("kind", KINDS)


def reduce_once(rank: Collective, sequence: int, summand: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sum over all ranks' summands, as a device would form it; float32 [count]."""
    parity, count = sequence % 2, len(summand)
    rank.own(parity)[:count] = summand
    rank.all_reduce(sequence, parity, count)
    total: npt.NDArray[Any] = rank.partials(parity)[:, :count].sum(axis=0)
    return total


@kinds
@settings(max_examples=25, deadline=None)
@given(
    num_ranks=st.integers(1, 8),
    counts=st.lists(st.integers(0, 5000), min_size=1, max_size=6),
    seed=st.integers(0, 9),
)
def test_sums_are_exact_for_any_ranks_and_counts(
    kind: str, num_ranks: int, counts: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    summands = [generator.integers(-99, 99, (num_ranks, count)).astype(np.float32) for count in counts]

    def run(rank: Collective) -> None:
        for sequence, rows in enumerate(summands, 1):
            np.testing.assert_array_equal(reduce_once(rank, sequence, rows[rank.rank]), rows.sum(axis=0))

    with connected(kind, num_ranks) as ranks:
        assert on_ranks(ranks, run) == [None] * num_ranks


@kinds
def test_more_ranks_than_a_host_usually_has(kind: str) -> None:
    with connected(kind, 12) as ranks:
        sums = on_ranks(ranks, lambda rank: reduce_once(rank, 1, np.ones(30, np.float32)).tolist())
    assert sums == [[12.0] * 30] * 12


@kinds
@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_every_rank_gets_the_same_bits(kind: str, num_ranks: int) -> None:
    rows = np.random.default_rng(1).standard_normal((num_ranks, 4097)).astype(np.float32)
    with connected(kind, num_ranks) as ranks:
        sums = on_ranks(ranks, lambda rank: reduce_once(rank, 1, rows[rank.rank]))
    assert len({total.tobytes() for total in sums}) == 1
    np.testing.assert_allclose(sums[0], rows.astype(np.float64).sum(axis=0), atol=1e-5)


@kinds
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_arena_can_be_imported_by_a_device(kind: str, num_ranks: int) -> None:
    with connected(kind, num_ranks, slot_bytes=5000) as ranks:
        for rank in ranks:
            num_parities, num_slots, slot_bytes = rank.arena.shape
            assert (num_parities, slot_bytes) == (2, rank.slot_bytes)
            assert rank.arena.ctypes.data % mmap.PAGESIZE == 0
            assert rank.slot_bytes % 4096 == 0
            assert 0 <= rank.write_slot < num_slots and 1 <= rank.num_partials <= num_slots


@kinds
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_call_that_does_not_fit_is_refused_and_changes_nothing(kind: str, num_ranks: int) -> None:
    ones = np.ones(8, np.float32)
    with connected(kind, num_ranks, slot_bytes=4096) as ranks:
        on_ranks(ranks, lambda rank: reduce_once(rank, 1, ones))
        for sequence, parity, count, fault in [
            (3, 0, 8, "sequence 3 where 2 was due"),
            (1, 0, 8, "sequence 1 where 2 was due"),
            (2, 1, 8, "parity 1 twice"),
            (2, 0, 10**6, "1000000 elements"),
            (2, 0, -1, "-1 elements"),
        ]:
            with pytest.raises(CollectiveError, match=fault):
                ranks[0].all_reduce(sequence, parity, count)
        assert [total[0] for total in on_ranks(ranks, lambda rank: reduce_once(rank, 2, ones))] == [
            num_ranks
        ] * num_ranks


@kinds
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_not_before_connect_and_not_after_close(kind: str, num_ranks: int) -> None:
    with unconnected(kind, num_ranks) as ranks:
        last = ranks[-1]
        with pytest.raises(CollectiveError, match="before connect"):
            last.all_reduce(1, 0, 1)
        with pytest.raises(ValueError, match=f"{num_ranks} endpoints"):
            last.connect(["", "", ""])
        last.close()
        last.close()
        with pytest.raises(CollectiveError, match="after close"):
            last.all_reduce(1, 0, 1)
        with pytest.raises(CollectiveError, match="no arena"):
            _ = last.arena


@kinds
def test_views_of_the_arena_outlive_close(kind: str) -> None:
    with connected(kind, 2) as ranks:
        view = ranks[0].partials(0)
        view[:] = 7
    assert (view == 7).all()


@kinds
@pytest.mark.parametrize("odd_rank", [0, 2])
def test_different_counts_are_an_error_that_names_both(kind: str, odd_rank: int) -> None:
    with connected(kind, 3) as ranks:
        errors = on_ranks(ranks, lambda rank: rank.all_reduce(1, 0, 11 if rank.rank == odd_rank else 10))
    for error in errors:
        assert isinstance(error, CollectiveError)
        assert f"11 elements on rank {odd_rank}" in str(error) or f"11 on rank {odd_rank}" in str(error)
        assert "10 elements on rank" in str(error) or "10 on rank" in str(error)


@kinds
@pytest.mark.parametrize("absent", [2, 3])
def test_a_timeout_names_the_rank_that_did_not_come(kind: str, absent: int) -> None:
    with connected(kind, 4, timeout_seconds=1.5) as ranks:
        on_ranks(ranks, lambda rank: rank.all_reduce(1, 0, 100))
        present = [rank for rank in ranks if rank.rank != absent]
        errors = on_ranks(present, lambda rank: rank.all_reduce(2, 1, 100))
        for rank, error in zip(present, errors, strict=True):
            assert isinstance(error, CollectiveTimeout)
            assert error.rank == absent
            waiting, _, rest = str(error).partition(" waited ")
            assert rest == f"1.5 s in all-reduce 2 for rank {absent}"
            assert waiting == f"rank {rank.rank}" or kind.endswith(ON_HOSTS)  # another may tell first
        with pytest.raises(CollectiveTimeout, match=f"all-reduce 2 for rank {absent}"):
            ranks[0].all_reduce(3, 0, 100)


@kinds
def test_connect_names_the_rank_that_did_not_come(kind: str) -> None:
    with unconnected(kind, 3, timeout_seconds=1) as ranks:
        endpoints = [rank.endpoint for rank in ranks]
        errors = on_ranks(ranks[:2], lambda rank: rank.connect(endpoints))
    for error in errors:
        assert isinstance(error, CollectiveTimeout)
        assert error.rank == 2
        assert "connect()" in str(error)


@kinds
@pytest.mark.parametrize("aborting", [0, 3])
def test_an_abort_reaches_all_quickly_and_stays(kind: str, aborting: int) -> None:
    with connected(kind, 4) as ranks:

        def run(rank: Collective) -> None:
            if rank.rank == aborting:
                rank.abort("lost its device " + "\N{GREEK SMALL LETTER ALPHA}" * 500)
            rank.all_reduce(1, 0, 100)

        for _ in range(2):
            with soon(ranks):
                errors = on_ranks(ranks, run)
            assert {type(error) for error in errors} == {CollectiveAborted}
            assert {error.rank for error in errors} == {aborting}
            assert all(f"rank {aborting} aborted: lost its device" in str(error) for error in errors)
            assert len(set(map(str, errors))) == 1


@kinds
def test_another_thread_can_abort_a_waiting_rank(kind: str) -> None:
    with connected(kind, 2) as ranks:
        entering = threading.Event()

        def run(rank: Collective) -> None:
            if rank.rank == 1:
                entering.wait(30)
                ranks[0].abort("asked to stop")
            else:
                entering.set()
            for sequence in (1, 2):  # the other may have all that it needs for the first
                rank.all_reduce(sequence, sequence % 2, 100)

        for error in on_ranks(ranks, run):
            assert isinstance(error, CollectiveAborted)
            assert error.rank == 0


def test_a_single_rank_can_abort() -> None:
    with connected("shared-memory", 1) as ranks:
        ranks[0].abort("enough")
        with pytest.raises(CollectiveAborted, match="rank 0 aborted: enough"):
            ranks[0].all_reduce(1, 0, 1)


@kinds
def test_nothing_is_left_behind(kind: str) -> None:
    before = open_things()
    with connected(kind, 3) as ranks:
        on_ranks(ranks, lambda rank: rank.all_reduce(1, 0, 100))
        assert open_things() > before
    del ranks
    assert open_things() == before


@kinds
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 2}, "rank 2"),
        ({"rank": -1}, "rank -1"),
        ({"num_ranks": 0}, "not 0"),
        ({"slot_bytes": 0}, "slot"),
        ({"timeout_seconds": 0}, "timeout"),
        ({"token": b"short"}, "16 bytes, not 5"),
    ],
)
def test_wrong_arguments_are_refused(kind: str, wrong: dict[str, object], message: str) -> None:
    right = {
        "rank": 0,
        "num_ranks": 2,
        "slot_bytes": 10,
        "timeout_seconds": 1.0,
        "token": secrets.token_bytes(16),
    }
    with pytest.raises(ValueError, match=message):
        create(kind, **{**right, **wrong})  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of shared-memory, zmq, zmq-ring"):
        collectives.create("carrier-pigeon", rank=0, num_ranks=1, slot_bytes=1, token=bytes(16))
