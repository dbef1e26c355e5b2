"""Tests which core a rank runs on that computes on one: a free one, where there is any."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tplaunch.worker import core_choice
from tplaunch.worker.core_choice import cores_taken, pin_to_one

FIRST = min(os.sched_getaffinity(0))


@pytest.fixture
def neighbour() -> Iterator[int]:
    """Another program's process, which may run on the first core only."""
    code = f"import os; os.sched_setaffinity(0, [{FIRST}]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def _listing(folder: Path, pid: int, command: bytes) -> Path:
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "cmdline").write_bytes(command)
    (folder / "self").mkdir()
    return folder


def test_a_process_with_a_core_to_itself_counts(neighbour: int, tmp_path: Path) -> None:
    assert cores_taken(_listing(tmp_path, neighbour, b"sleep")) == {FIRST: 1}


def test_a_thread_of_the_kernel_does_not_count(neighbour: int, tmp_path: Path) -> None:
    assert not cores_taken(_listing(tmp_path, neighbour, b""))


def test_processes_that_have_ended_or_cannot_be_listed_do_not_count(tmp_path: Path) -> None:
    assert not cores_taken(_listing(tmp_path, 1 << 22, b"sleep"))
    assert not cores_taken(tmp_path / "missing")


@pytest.mark.parametrize(
    ("taken", "chosen"), [({}, 3), ({3: 1}, 5), ({3: 1, 5: 1}, 7), ({3: 2, 5: 1, 7: 1}, 5), ({1: 9}, 3)]
)
def test_the_first_core_that_fewest_have_is_taken(
    taken: dict[int, int], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[list[int]] = []
    monkeypatch.setattr(core_choice, "cores_taken", lambda: {3: 0, 5: 0, 7: 0} | taken)
    monkeypatch.setattr(core_choice, "pin", pinned.append)
    pin_to_one([3, 5, 7])
    assert pinned == [[chosen]]


def test_runs_choose_one_after_another_and_wait_for_none_that_hangs() -> None:
    tries: list[float] = []
    with Path(core_choice.__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def let_go(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                fcntl.flock(file, fcntl.LOCK_UN)

        with core_choice._one_at_a_time(let_go):
            assert len(tries) == 3
            with core_choice._one_at_a_time(tries.append):  # the lock is held, by the one outside
                assert len(tries) == 3 + core_choice.MAX_TRIES
