"""Signs of life of workers, and the ends of those whose coordinator is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.no_processes import NoProcesses
from tests.patience import PATIENCE
from tplaunch.coordinator.messages import Failed, Hello, Progress
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import RemoteDoor, WorkerChannel
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher import beats
from tplaunch.launcher.beats import Beats
from tplaunch.launcher.worker_command import WORKER_COMMAND
from tplaunch.running_clock import RunningClock
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.place import WorkerPlace, read_place, written_place

SECRET = bytes(range(32))
WAITS = PATIENCE  # seconds


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(
        beats, "RunningClock", lambda most_seconds: RunningClock(made, most_seconds=most_seconds)
    )
    return made


def test_who_beats_lives_and_who_stops_does_not(clock: Clock) -> None:
    watched, ends = Beats(4.0), []
    for _ in range(2):
        with watched.pipe() as (end,):
            ends.append(os.dup(end))
    for second in range(20):  # as long as none has begun, none is late
        clock.now = second
        assert not watched.silent()
    for end in ends:
        os.write(end, b".")
    assert not watched.silent()
    for second in range(20, 26):
        clock.now = second
        os.write(ends[0], b".")
        silent = watched.silent()
    assert list(silent) == [1] and "gave no sign of life for" in silent[1]
    os.write(ends[1], b".")
    assert not watched.silent()
    watched.close()
    for end in ends:
        os.close(end)
    assert not watched.silent()


def test_who_was_stopped_itself_blames_nobody(clock: Clock) -> None:
    watched = Beats(4.0)
    with watched.pipe() as (end,):
        os.write(end, b".")
        assert not watched.silent()
        clock.now = 3600.0
        assert not watched.silent()
    watched.close()


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerChannel]:
    """A channel to a rank of this host, and two of another; none of them ends this process."""
    monkeypatch.setattr("tplaunch.worker.control.end_without", lambda socket, seconds: None)
    opened = WorkerChannel(
        f"ipc://{tmp_path}/control", 3, NoProcesses(), RemoteDoor("127.0.0.1", (1, 2), SECRET)
    )
    yield opened
    opened.close()


def dial(channel: WorkerChannel, tmp_path: Path, rank: int, secret: bytes = SECRET) -> ControlSocket:
    place = WorkerPlace(str(tmp_path), "127.0.0.1", secret, silence_seconds=3600.0)
    return ControlSocket(f"tcp://127.0.0.1:{channel.port}", rank, place)


def test_ranks_of_other_hosts_are_heard_and_spoken_to(channel: WorkerChannel, tmp_path: Path) -> None:
    ranks = [
        ControlSocket(f"ipc://{tmp_path}/control", 0),
        *(dial(channel, tmp_path, rank) for rank in (1, 2)),
    ]
    for rank, socket in enumerate(ranks):
        socket.send(Hello(1, rank))
    assert [hello.rank for hello in channel.collect(Hello, "start", WAITS)] == [0, 1, 2]
    channel.broadcast(Progress(1, 2))
    channel.send(2, Progress(2, 2))
    assert [socket.receive() for socket in ranks] == [Progress(1, 2)] * 3
    assert ranks[2].receive() == Progress(2, 2)
    ranks[1].send(Failed("a fault", None))
    with pytest.raises(WorkerError, match="rank 1 failed: a fault"):
        channel.receive(channel.clock() + WAITS)
    for socket in ranks:
        socket.close()


def test_each_rank_has_its_own_door(channel: WorkerChannel, tmp_path: Path) -> None:
    """A rank of another host passes for none of this one, and a stranger for nobody."""
    passing, stranger = dial(channel, tmp_path, 0), dial(channel, tmp_path, 1, bytes(32))
    for socket in (passing, stranger):
        socket.send(Hello(1, 0))
    real = dial(channel, tmp_path, 2)
    real.send(Hello(1, 2))
    assert channel.receive(channel.clock() + WAITS) == (2, Hello(1, 2))
    assert channel.receive(channel.clock() + 0.2) is None
    for socket in (passing, stranger, real):
        socket.close()


WORKER = """
import sys
from tplaunch.coordinator.messages import Hello
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.place import WorkerPlace
control = ControlSocket(sys.argv[1], 1, WorkerPlace("/", "", bytes(range(32)), 1.0))
control.send(Hello(1, 1))
control.receive()
"""


def test_a_worker_ends_without_its_coordinator(tmp_path: Path) -> None:
    """It waits for a message all the time, so that only its own watch can end it."""
    opened = WorkerChannel(
        f"ipc://{tmp_path}/control", 2, NoProcesses(), RemoteDoor("127.0.0.1", (1,), SECRET)
    )
    endpoint = f"tcp://127.0.0.1:{opened.port}"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, endpoint])
    try:
        assert opened.receive(opened.clock() + 2 * WAITS) == (1, Hello(1, 1))
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(2.0)  # twice the silence that it bears
        opened.close()
        assert worker.wait(WAITS) == 1
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_ends_that_never_finds_its_coordinator() -> None:
    script = """
import zmq
from tplaunch.worker.head_watch import end_without
socket = zmq.Context().socket(zmq.DEALER)
end_without(socket, 60.0, start_seconds=0.2)
socket.connect("tcp://127.0.0.1:9")
socket.recv()
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=WAITS, check=False).returncode == 1


def test_a_place_is_for_those_who_inherit_it(tmp_path: Path) -> None:
    place = WorkerPlace(str(tmp_path), "::1", SECRET, 4.0, ("/a\udcff.gguf", "/b"))
    with written_place(place) as descriptor:
        assert not list(tmp_path.iterdir()) and os.fstat(descriptor).st_mode & 0o777 == 0o600
        for _ in range(2):
            assert read_place(os.dup(descriptor)) == place


@pytest.mark.parametrize("content", [b"", b"none"])
def test_what_is_no_place(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(WireError):
        read_place(os.open(path, os.O_RDONLY))


def test_a_worker_removes_its_folder_whose_parent_has_gone_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with written_place(WorkerPlace(str(folder), "127.0.0.1", SECRET, 4.0)) as descriptor:
        command = [*WORKER_COMMAND, "--parent=1", f"--place={descriptor}", "--connect=tcp://127.0.0.1:9"]
        ended = subprocess.run(command, pass_fds=[descriptor], timeout=WAITS, check=False)
    assert ended.returncode == 1 and not folder.exists()
