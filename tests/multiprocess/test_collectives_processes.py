"""Collectives between real processes, one of which may be killed."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.unit.collectives_group import KINDS

REPOSITORY = Path(__file__).resolve().parents[2]
kinds = pytest.mark.parametrize("kind", KINDS)


class Rank:
    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.multiprocess.collectives_worker", *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)

    def tell(self, value: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def finish(self) -> None:
        """Nobody is left running, whatever a test came to."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def running(kind: str, num_ranks: int, timeout_seconds: float, num_calls: int) -> Iterator[list[Rank]]:
    """The ranks as processes, each of which has made `num_calls` all-reduces."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ranks = [
            Rank(kind, number, num_ranks, timeout_seconds, num_calls, folder) for number in range(num_ranks)
        ]
        for rank in ranks:
            stack.callback(rank.finish)
        endpoints = [rank.hear() for rank in ranks]
        for rank in ranks:
            rank.tell(endpoints)
        assert [rank.hear() for rank in ranks] == ["ran"] * num_ranks
        yield ranks


def check_nothing_left(ranks: list[Rank]) -> None:
    for rank in ranks:
        left = rank.hear()
        assert left["after"] == left["before"]
        assert rank.process.wait(PATIENCE) == 0
    assert not list(Path("/dev/shm").glob("*tplaunch*"))


@kinds
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_many_all_reduces_between_processes(kind: str, num_ranks: int) -> None:
    with running(kind, num_ranks, timeout_seconds=60, num_calls=200) as ranks:
        for rank in ranks:
            rank.tell("go")
        assert [rank.hear() for rank in ranks] == ["ran"] * num_ranks
        check_nothing_left(ranks)


@pytest.mark.parametrize(
    ("kind", "killed"),
    [
        ("shared-memory", 0),
        ("zmq-ring", 2),
        ("zmq-ring over TCP", 2),
        ("zmq over TCP", 2),
        ("shared-memory on two hosts", 2),
        ("shared-memory on two hosts", 3),
    ],
)
def test_a_killed_process_is_named_by_all_others(kind: str, killed: int) -> None:
    with running(kind, 4, timeout_seconds=2, num_calls=10) as ranks:
        ranks[killed].process.kill()
        ranks[killed].process.wait(PATIENCE)
        others = [rank for rank in ranks if rank is not ranks[killed]]
        for rank in others:
            rank.tell("go")
        for rank in others:
            error, blamed, message = rank.hear()
            assert (error, blamed) == ("CollectiveTimeout", killed)
            assert message.endswith(f"waited 2 s in all-reduce 11 for rank {killed}")
        check_nothing_left(others)
