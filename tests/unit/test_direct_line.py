"""Messages between coordinator and worker by a direct line: their order, their number, and the line's end."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import zmq

from tplaunch.coordinator.direct_line import BY_ZMQ, MAX_BYTES, DirectLine, LinePairs, takes
from tplaunch.coordinator.encoding import encode
from tplaunch.coordinator.messages import (
    Advance,
    Answer,
    Failed,
    FetchRows,
    Hello,
    Message,
    Rows,
    Step,
    StepDone,
)
from tplaunch.coordinator.serving import control
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import WorkerChannel
from tplaunch.coordinator.serving.incoming import Incoming
from tplaunch.worker import control as worker_control
from tplaunch.worker.control import ControlSocket

NONE = np.zeros(0, np.int32)


class Living:
    """Processes that never end."""

    def watch(self, excused: Collection[int]) -> None:
        pass

    def descriptors(self) -> Sequence[int]:
        return ()


class World:
    """A channel and the sockets of its ranks, of which the last one has no line: it is on another host."""

    def __init__(self, folder: Path, num_lines: int = 2) -> None:
        endpoint = f"ipc://{folder}/control"
        self.lines = LinePairs(range(num_lines))
        self.channel = WorkerChannel(endpoint, 3, Living(), lines=self.lines.near)
        self.ranks = [ControlSocket(endpoint, rank, line=self.lines.far.get(rank)) for rank in range(3)]
        for rank, socket in enumerate(self.ranks):
            socket.send(Hello(1, rank))
        assert {self.receive()[0] for _ in self.ranks} == {0, 1, 2}

    def receive(self) -> tuple[int, Message]:
        received = self.channel.receive(self.channel.clock() + 30)
        assert received is not None
        return received

    def close(self) -> None:
        for rank in self.ranks:
            rank.close()
        self.channel.close()
        self.lines.__exit__(None, None, None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def rows(number: int, num_floats: int) -> Rows:
    return Rows(number, np.full(num_floats, number, np.float32))


SIZES = (1, 5000, 2, 200_000, 3, 4000)  # float32; small ones travel by the line, large ones by ZeroMQ


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_is_heard_in_the_order_in_which_it_speaks(world: World, rank: int) -> None:
    for number, size in enumerate(SIZES):
        world.ranks[rank].send(rows(number, size))
    for number, size in enumerate(SIZES):
        sender, message = world.receive()
        assert isinstance(message, Rows)
        assert (sender, message.number, message.logits.size) == (rank, number, size)
        assert (message.logits == number).all()


def test_a_rank_hears_in_the_order_in_which_it_is_told(world: World) -> None:
    for number, size in enumerate(SIZES):
        world.channel.broadcast(Step(number, np.full(size, number, np.int32), NONE, NONE))
    digests = []
    for rank in world.ranks:
        for number, size in enumerate(SIZES):
            message = rank.receive()
            assert isinstance(message, Step)
            assert (message.number, message.token_ids.size) == (number, size)
        digests.append(rank.digest())
    assert len(set(digests)) == 1  # whichever way the step came


def test_a_step_of_one_text_takes_two_packets_a_rank_and_no_other_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a message by ZeroMQ")

    monkeypatch.setattr(control, "send_frames", refuse)
    monkeypatch.setattr(worker_control, "send_frames", refuse)
    step = Step(7, np.array([5], np.int32), np.array([0, 9, 1, -1, -1], np.int32), np.array([0], np.int32))
    ids, logits = np.arange(64, dtype=np.int32), np.zeros(64, np.float32)
    done = StepDone(7, logits[:0], {"host": 1.0}, answer=Answer(np.array([64], np.int32), ids, logits))
    for rank in (0, 1):
        world.channel.send(rank, step)
        received = world.ranks[rank].receive()
        assert isinstance(received, Step) and received.number == 7
        world.ranks[rank].send(done)
        sender, answer = world.receive()
        assert sender == rank and isinstance(answer, StepDone) and answer.answer.ids.size == 64
    assert sum(map(len, encode(step))) < 200
    assert sum(map(len, encode(done))) < 1000


def test_a_step_that_follows_is_told_by_its_tokens_on_every_way(world: World) -> None:
    """Also to a rank without a line. What its digest tells is the same for all."""
    ints = [np.array(numbers, np.int32) for numbers in ([5], [0, 9, 1, -1, -1], [0, 10, 1, -1, -1], [0])]
    first = Step(7, ints[0], ints[1], ints[3])
    world.channel.broadcast(first)
    world.channel.broadcast(Step(8, ints[0] + 1, ints[2], ints[3], wanted=first.wanted))
    world.channel.broadcast(Step(9, ints[0], ints[2], ints[3], wanted=first.wanted))  # not the next position
    digests = []
    for rank in world.ranks:
        received = [rank.receive(), rank.receive(), rank.receive()]
        digests.append(rank.digest())
        assert [type(message) for message in received] == [Step, Advance, Step]
        assert isinstance(received[1], Advance)
        assert (received[1].number, received[1].token_ids.tolist()) == (8, [6])
    assert len(set(digests)) == 1


@pytest.mark.parametrize("has_unread", [False, True])
def test_the_last_words_of_a_rank_that_has_gone_are_heard(world: World, has_unread: bool) -> None:
    if has_unread:  # else the kernel says nothing of the end before the words
        world.channel.send(1, FetchRows(1, NONE))
    world.ranks[1].send(Failed("the device is lost", None))
    world.ranks[1].close()
    with pytest.raises(WorkerError, match=r"rank 1 failed: the device is lost"):
        world.receive()


def test_a_rank_that_has_gone_can_not_be_reached(world: World) -> None:
    world.ranks[0].close()
    with pytest.raises(WorkerError, match="rank 0 can't be reached"):
        world.channel.send(0, FetchRows(1, NONE))


def test_a_rank_whose_coordinator_has_gone_ends(world: World) -> None:
    world.lines.near[0].close()
    with pytest.raises(EOFError, match="the coordinator is gone"):
        world.ranks[0].receive()


@pytest.mark.parametrize("comes_first", [False, True])
def test_a_message_by_zmq_has_the_place_that_its_line_keeps(comes_first: bool) -> None:
    with LinePairs([4]) as lines:
        incoming, poller = Incoming(lines.near), zmq.Poller()
        incoming.poll_lines(poller)
        for packet in (b"one", BY_ZMQ, b"three"):
            lines.far[4].send(packet)
        line = lines.near[4].fileno()
        assert incoming.hear(line, poller)
        if comes_first:
            incoming.put(4, [b"two"])
        assert incoming.hear(line, poller)
        if not comes_first:
            assert not poller.poll(0)  # the line waits for its turn
            incoming.put(4, [b"two"])
        assert [ready for ready, _ in poller.poll(0)] == [line]
        assert incoming.hear(line, poller)
        assert [list(found[1]) for found in iter(incoming.take, None)] == [[b"one"], [b"two"], [b"three"]]


def test_a_line_takes_what_one_packet_holds() -> None:
    with LinePairs([0]) as lines:
        largest = bytes(MAX_BYTES)
        assert takes([largest]) and not takes([largest + b"."]) and not takes([b".", b"."])
        lines.far[0].send(largest)
        assert lines.near[0].receive() == largest
        assert lines.near[0].receive_now() is None
        lines.far[0].close()
        assert lines.near[0].receive_now() == b""
        inherited = DirectLine.inherited(os.dup(lines.near[0].fileno()))
        assert inherited.receive() == b""
        inherited.close()
