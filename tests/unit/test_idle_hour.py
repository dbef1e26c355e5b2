"""An hour in which nothing is asked for, by a simulated clock: nobody is lost, and nothing piles up."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from tests.unit.test_hosts_places import JOIN
from tplaunch.launcher import beats
from tplaunch.launcher.beats import Beats
from tplaunch.launcher.hosts import head_clerk, head_link
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head import Head
from tplaunch.launcher.hosts.head_link import HeadGone, HeadLink
from tplaunch.launcher.hosts.messages import FoundModel, WantedModel, Welcome
from tplaunch.launcher.hosts.post import TICKS_PER_SILENCE
from tplaunch.running_clock import RunningClock

HOUR, SILENCE = 3600.0, 4.0  # seconds
NAME = b"the joining host"
ADDRESS = Address("127.0.0.1", 1)


class StillPost:
    """A Post without a thread: the test ticks, and carries what it is handed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        socket: zmq.Socket[bytes] | None = None,
        tick_seconds: float = 0.0,
    ) -> None:
        self._context, self._socket = context, socket
        self.tick_seconds = SILENCE / TICKS_PER_SILENCE
        self.failure: Exception | None = None
        self.outgoing: deque[list[bytes]] = deque()

    def monitor(self, events: int) -> None:
        pass

    def start(self, clerk: object) -> None:
        pass

    def send(self, frames: Sequence[bytes | memoryview]) -> None:
        self.outgoing.append([bytes(frame) for frame in frames])

    def close(self) -> None:
        if self._context is not None and self._socket is not None:
            self._socket.close(linger=0)
            self._context.term()


class Pair:
    """A head, and a host that has joined it, a tick at a time."""

    def __init__(self, head: Head, link: HeadLink, up: StillPost, down: StillPost) -> None:
        self.head, self.link, self._up, self._down = head, link, up, down
        self.num_carried = 0
        link.hear(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        link.send(JOIN)
        self.carry()
        assert isinstance(link.receive(), WantedModel)
        link.send(FoundModel())
        self.carry()
        assert isinstance(link.receive(), Welcome)
        (self.member,) = head.await_hosts(0.0, lambda: None, lambda _: None)

    def carry(self) -> None:
        while self._up.outgoing or self._down.outgoing:
            self.num_carried += 1
            if self._up.outgoing:
                self.head.take([NAME, *self._up.outgoing.popleft()])
            else:
                self.link.take(self._down.outgoing.popleft()[1:])

    def tick(self) -> None:
        self.head.tick()
        self.link.tick()


@contextmanager
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    down, posts = StillPost(), list[StillPost]()

    def make_post(*arguments: Any) -> StillPost:
        posts.append(StillPost(*arguments))
        return posts[-1]

    monkeypatch.setattr(head_clerk, "open_post", lambda *_: down)
    monkeypatch.setattr(head_link, "Post", make_post)
    head = Head(ADDRESS, None, 2, WantedModel("model", "", (), SILENCE))
    link = HeadLink(ADDRESS, None)
    try:
        yield Pair(head, link, posts[0], down)
    finally:
        link.close()
        head.close()


def test_an_hour_between_hosts_and_then_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined(monkeypatch) as pair:
        num_ticks = round(HOUR / SILENCE * TICKS_PER_SILENCE)
        for number in range(num_ticks):
            pair.tick()
            if number % (TICKS_PER_SILENCE // 2) == 0:  # a network that delivers late, and all at once
                pair.carry()
            assert pair.link.receive() is None
        assert pair.head.faults([pair.member]) == []
        assert num_ticks / 4 <= pair.num_carried <= num_ticks
        for _ in range(TICKS_PER_SILENCE + 1):  # from now on nothing is carried
            pair.tick()
        assert [member.lost for member, _ in pair.head.faults([pair.member])] != []
        assert "said nothing for 4 s" in pair.member.lost
        with pytest.raises(HeadGone, match="said nothing for 4 s"):
            pair.link.receive()


def test_an_hour_of_a_worker_and_then_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(beats, "RunningClock", lambda most_seconds: RunningClock(lambda: now, most_seconds))
    worker = Beats(SILENCE)
    with worker.pipe() as (write,):
        while now < HOUR:
            os.write(write, b".")
            assert worker.silent() == {}
            now += worker.beat_seconds
        last = now - worker.beat_seconds
        while not worker.silent():
            now += 0.5
        assert SILENCE < now - last <= SILENCE + 1
    worker.close()
