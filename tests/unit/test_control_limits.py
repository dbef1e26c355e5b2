"""A rank and the coordinator send each other few frames, of a limited size."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.no_processes import NoProcesses
from tplaunch.coordinator.encoding import MAX_FRAME_BYTES, MAX_FRAMES, encode, identity
from tplaunch.coordinator.messages import Failed, Message, Progress, Shutdown
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import WorkerChannel
from tplaunch.coordinator.wire import Float32s, WireError
from tplaunch.worker.control import ControlSocket

SECONDS = 30.0


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[WorkerChannel]:
    opened = WorkerChannel(f"ipc://{tmp_path}/control", 2, NoProcesses())
    yield opened
    opened.close()


@pytest.fixture
def peer(channel: WorkerChannel, tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A rank that sends what it likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.IDENTITY, identity(1))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{tmp_path}/control")
        yield socket


def hear(channel: WorkerChannel) -> tuple[int, Message] | None:
    return channel.receive(channel.clock() + SECONDS)


def test_both_sides_mean_the_same_rank(channel: WorkerChannel, tmp_path: Path) -> None:
    worker = ControlSocket(f"ipc://{tmp_path}/control", 1)
    worker.send(Progress(1, 2))
    assert hear(channel) == (1, Progress(1, 2))
    channel.send(1, Shutdown())
    assert worker.receive() == Shutdown()
    worker.close()


@pytest.mark.parametrize("num_frames", [MAX_FRAMES + 1, 20_000])
def test_a_message_of_many_frames_is_an_error_of_its_rank(
    channel: WorkerChannel, peer: zmq.Socket[bytes], num_frames: int
) -> None:
    peer.send_multipart([*encode(Progress(1, 2)), *[b"frame"] * (num_frames - 1)])
    with pytest.raises(
        WorkerError, match=f"rank 1 sent Progress with {MAX_FRAMES} frames of arrays"
    ) as caught:
        hear(channel)
    assert caught.value.rank == 1
    peer.send_multipart(encode(Progress(2, 2)))  # nothing of it is left in the way
    assert hear(channel) == (1, Progress(2, 2))


def test_a_message_that_is_too_large_does_not_come_in(
    channel: WorkerChannel, peer: zmq.Socket[bytes]
) -> None:
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    peer.send(bytes(MAX_FRAME_BYTES + 1), copy=False)
    assert monitor.poll(int(SECONDS * 1000))  # cut off
    peer.disable_monitor()
    monitor.close()
    peer.send_multipart(encode(Failed("still here", None)))
    with pytest.raises(WorkerError, match="rank 1 failed: still here"):
        hear(channel)


def test_a_worker_refuses_a_message_of_many_frames(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/control")
        worker = ControlSocket(f"ipc://{tmp_path}/control", 0)
        worker.send(Progress(0, 1))
        name, *_ = router.recv_multipart()
        router.send_multipart([name, *encode(Shutdown()), *[b""] * 20_000])
        with pytest.raises(WireError, match=f"Shutdown with {MAX_FRAMES} frames of arrays"):
            worker.receive()
        worker.close()


def test_no_message_has_more_frames_than_are_let_in() -> None:
    def num_arrays(hint: Any) -> int:
        if not dataclasses.is_dataclass(hint):
            return int(hint == Float32s)
        return sum(map(num_arrays, typing.get_type_hints(hint, include_extras=True).values()))

    assert 1 + max(map(num_arrays, typing.get_args(Message))) == MAX_FRAMES
