"""Tests features of shared memory alone: one arena for all, a path between the ranks, sleep on a flag."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.collectives_group import connected, on_ranks, unconnected
from tplaunch.collectives import Collective, CollectiveError, SharedMemory

TOKEN = bytes(range(16))


@pytest.fixture
def first() -> Iterator[SharedMemory]:
    made = SharedMemory(rank=0, num_ranks=2, slot_bytes=4096, token=TOKEN)
    yield made
    made.close()


def test_all_ranks_share_one_arena() -> None:
    with connected("shared-memory", 3) as ranks:
        for rank in ranks:
            rank.arena[1, rank.write_slot] = 10 + rank.rank
        for rank in ranks:
            np.testing.assert_array_equal(rank.arena[1, :, -1], [10, 11, 12])


def test_only_rank_0_has_an_arena_before_connect() -> None:
    with unconnected("shared-memory", 2) as ranks:
        assert ranks[0].arena.any() == np.False_
        assert ranks[1].endpoint == ""
        with pytest.raises(CollectiveError, match="rank 1 has no arena before connect"):
            _ = ranks[1].arena


@pytest.mark.parametrize(
    ("slot_bytes", "token", "fault"),
    [(8192, TOKEN, "bytes, not"), (4096, bytes(16), "belongs to another run")],
)
def test_memory_that_is_not_this_runs_is_refused(
    first: SharedMemory, slot_bytes: int, token: bytes, fault: str
) -> None:
    second = SharedMemory(rank=1, num_ranks=2, slot_bytes=slot_bytes, token=token)
    with pytest.raises(CollectiveError, match=fault) as caught:
        second.connect([first.endpoint, ""])
    assert caught.value.rank == 0
    second.abort("after a refusal")  # must not write into memory that was refused
    assert first._shared._header is not None
    first._shared._header.check_aborted()
    second.close()


def test_the_memory_keeps_its_size(first: SharedMemory) -> None:
    """Who shortens it would have every rank killed that touches what is gone."""
    size = Path(first.endpoint).stat().st_size
    for changed in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.truncate(first.endpoint, changed)
    assert Path(first.endpoint).stat().st_size == size


def test_a_path_that_is_not_there_is_refused() -> None:
    second = SharedMemory(rank=1, num_ranks=2, slot_bytes=4096, token=TOKEN)
    said = r"No such file or directory; where ranks .* /proc, use --collective zmq-ring$"
    with pytest.raises(CollectiveError, match=said):
        second.connect([f"/proc/{os.getpid()}/fd/99999", ""])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_sandbox_without_shared_memory_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", refuse)
    said = rf"rank 0 can make no shared memory here \({os.strerror(number)}\); use --collective zmq-ring$"
    with pytest.raises(CollectiveError, match=said):
        SharedMemory(rank=0, num_ranks=2, slot_bytes=4096, token=TOKEN)


def test_a_rank_that_sleeps_is_woken() -> None:
    with connected("shared-memory", 2) as ranks:
        sleeper, waker = ranks
        assert isinstance(waker, SharedMemory)
        header = waker._shared._header
        assert header is not None
        mark = header.peers[0].sleeps_on

        def run(rank: Collective) -> None:
            for sequence in range(1, 20):
                while rank is waker and header.load(mark) != waker.rank + 1:
                    os.sched_yield()
                rank.all_reduce(sequence, sequence % 2, 0)

        assert on_ranks([sleeper, waker], run) == [None, None]


@pytest.mark.parametrize(("yield_seconds", "at_most"), [(1e-3, 1), (1e-5, 30)])
def test_a_waiting_rank_gives_up_its_core_soon_where_others_need_it(
    monkeypatch: pytest.MonkeyPatch, yield_seconds: float, at_most: int
) -> None:
    """By a clock on which only yields take time, before it sleeps: at once where a yield was long."""
    now, yields = 0.0, 0

    def give_way() -> None:
        nonlocal now, yields
        now, yields = now + yield_seconds, yields + 1

    with connected("shared-memory", 3) as ranks:
        first = ranks[0]
        assert isinstance(first, SharedMemory) and first._shared._header is not None
        monkeypatch.setattr("tplaunch.collectives.shared_ranks.monotonic", lambda: now)
        monkeypatch.setattr("os.sched_yield", give_way)
        slept_on: list[int] = []
        monkeypatch.setattr(first._shared, "_sleep", lambda header, peer, *rest: slept_on.append(peer.rank))
        first._shared._await_peers(
            1, 1, 60, None
        )  # no one comes: both peers are slept on, after one spin in all
    assert slept_on == [1, 2] and 1 <= yields <= at_most
