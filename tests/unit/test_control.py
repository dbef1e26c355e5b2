"""The coordinator's channel over real sockets, with ranks that the test plays itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from tplaunch.coordinator.messages import Failed, Progress
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import BLAME_SECONDS, WorkerChannel
from tplaunch.running_clock import MOST_SECONDS, RunningClock
from tplaunch.worker.control import ControlSocket


class Processes:
    """The workers' processes: each a pipe of which the end closes when the process is said to end."""

    def __init__(self, num_ranks: int, has_descriptors: bool) -> None:
        self.pipes = [os.pipe() for _ in range(num_ranks)]
        self.ended: list[int] = []
        self._has_descriptors = has_descriptors

    def end(self, rank: int) -> None:
        self.ended.append(rank)
        os.close(self.pipes[rank][1])

    def watch(self, excused: Collection[int]) -> None:
        for rank in self.ended:
            if rank not in excused:
                raise WorkerError(rank, f"rank {rank} ended: killed by SIGKILL")

    def descriptors(self) -> Sequence[int]:
        return [read for read, _ in self.pipes] if self._has_descriptors else ()

    def close(self) -> None:
        for rank, (read, write) in enumerate(self.pipes):
            os.close(read)
            if rank not in self.ended:
                os.close(write)


class World:
    """A channel and the sockets of its ranks."""

    def __init__(self, folder: Path, num_ranks: int, has_descriptors: bool = True) -> None:
        endpoint = f"ipc://{folder}/control"
        self.processes = Processes(num_ranks, has_descriptors)
        self.channel = WorkerChannel(endpoint, num_ranks, self.processes)
        self.ranks = [ControlSocket(endpoint, rank) for rank in range(num_ranks)]

    def receive(self, seconds: float = 30) -> object:
        return self.channel.receive(self.channel.clock() + seconds)

    def close(self) -> None:
        for rank in self.ranks:
            rank.close()
        self.channel.close()
        self.processes.close()


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


def new(worlds: list[World], tmp_path: Path, num_ranks: int, has_descriptors: bool = True) -> World:
    worlds.append(World(tmp_path, num_ranks, has_descriptors))
    return worlds[-1]


@pytest.mark.parametrize(
    ("culprits", "blamed", "words"),
    [
        ({0: 1, 1: 0}, 0, "ranks 0 and 1 blame each other: rank 0 failed: fault of 0"),
        ({1: 0, 0: 1}, 0, "ranks 0 and 1 blame each other: rank 0 failed: fault of 0"),
        ({0: 1, 1: 2, 2: 0}, 0, "ranks 0, 1 and 2 blame each other"),
        ({0: 2, 2: 1, 1: 2}, 1, "ranks 1 and 2 blame each other: rank 1 failed: fault of 1"),
        ({0: 1, 1: 2, 2: None}, 2, "rank 2 failed: fault of 2"),
        ({0: 1, 1: 2, 2: 2}, 2, "rank 2 failed: fault of 2"),
        ({0: 0}, 0, "rank 0 failed: fault of 0"),
        ({0: 1}, 1, "rank 0 failed: fault of 0"),  # rank 1 is not heard
        ({0: 77}, 0, "rank 0 failed: fault of 0"),
        ({0: -1}, 0, "rank 0 failed: fault of 0"),
        ({0: 1, 1: 77}, 1, "rank 1 failed: fault of 1"),
        ({0: None}, 0, "rank 0 failed: fault of 0"),
    ],
)
def test_blame_is_a_graph(
    worlds: list[World], tmp_path: Path, culprits: dict[int, int | None], blamed: int, words: str
) -> None:
    world = new(worlds, tmp_path, 3)
    for rank, culprit in culprits.items():
        world.ranks[rank].send(Failed(f"fault of {rank}", culprit))
    started = world.channel.clock()
    with pytest.raises(WorkerError, match=words) as caught:
        world.receive()
    assert caught.value.rank == blamed
    assert world.channel.clock() - started < 20 * BLAME_SECONDS


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_a_dead_rank_is_noticed_while_others_talk(
    worlds: list[World], tmp_path: Path, has_descriptors: bool
) -> None:
    world = new(worlds, tmp_path, 2, has_descriptors)
    world.ranks[0].send(Progress(0, 1))
    assert world.receive() == (0, Progress(0, 1))
    done = threading.Event()

    def load() -> None:
        while not done.wait(0.02):
            world.ranks[0].send(Progress(0, 1))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        world.processes.end(1)
        with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
            for _ in range(10_000):
                world.receive()
    finally:
        done.set()
        thread.join()


def test_last_words_are_heard_after_the_end(worlds: list[World], tmp_path: Path) -> None:
    world = new(worlds, tmp_path, 2)
    world.processes.end(1)
    world.ranks[0].send(Progress(0, 1))
    world.ranks[1].send(Failed("out of memory", None))
    with pytest.raises(WorkerError, match="rank 1 failed: out of memory"):
        world.receive()
        world.receive()


def test_who_blames_a_dead_rank_is_not_blamed(worlds: list[World], tmp_path: Path) -> None:
    world = new(worlds, tmp_path, 3)
    world.ranks[0].send(Failed("rank 0 waited 2 s for rank 2", 2))
    world.processes.end(2)
    with pytest.raises(WorkerError, match="rank 2 ended: killed by SIGKILL"):
        world.receive()


def test_a_stop_takes_no_time_from_a_rank(worlds: list[World], tmp_path: Path) -> None:
    """The clock jumps by hours while the channel waits; the answer comes after that."""
    world = new(worlds, tmp_path, 1)
    jumps = iter([0.0, 5000.0, 10000.0])
    world.channel.clock = RunningClock(lambda: next(jumps, 10000.0))
    answer = threading.Timer(0.3, world.ranks[0].send, [Progress(1, 1)])
    answer.start()
    assert world.receive(4 * MOST_SECONDS) == (0, Progress(1, 1))
    answer.join()


def test_silence_has_an_end(worlds: list[World], tmp_path: Path) -> None:
    world = new(worlds, tmp_path, 1)
    started = time.monotonic()
    assert world.receive(0.3) is None
    assert time.monotonic() - started >= 0.3
