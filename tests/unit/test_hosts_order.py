"""Messages between head and host whose connection breaks: each is taken once, in order, whatever is lost."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.unit.test_hosts_head import SECRET, World, expect, until
from tests.unit.test_hosts_places import JOIN
from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head_link import HeadLink
from tplaunch.launcher.hosts.messages import (
    Beat,
    FoundModel,
    RanksStopped,
    StartRanks,
    WantedModel,
    Welcome,
    decode_from_joiner,
    encode,
    number_of,
)
from tplaunch.launcher.hosts.order import Order


class Side:
    """One end of a connection that loses what it is told to."""

    def __init__(self) -> None:
        self.order, self.taken = Order(), list[int]()

    def receive(self, frames: Sequence[Frame]) -> None:
        message = decode_from_joiner(frames)
        if isinstance(message, Beat):
            self.order.hear(message)
        elif self.order.takes(frames):
            assert isinstance(message, RanksStopped)
            self.taken.append(message.run)


@pytest.mark.parametrize("seed", range(20))
def test_each_message_is_taken_once_and_in_order(seed: int) -> None:
    draw, sides = random.Random(seed), (Side(), Side())
    for run in range(60):
        is_breaking = draw.random() < 0.4
        for side, other in (sides, sides[::-1]):
            sent = [side.order.numbered(encode(RanksStopped(run)))]
            sent += side.order.again()
            sent.append(side.order.beat())
            # What breaks loses all behind some message, as a connection does.
            come = sent[: draw.randrange(len(sent))] if is_breaking else sent
            for frames in come:
                other.receive(frames)
    for _ in range(3):  # beats of a connection that holds
        for side, other in (sides, sides[::-1]):
            for frames in (*side.order.again(), side.order.beat()):
                other.receive(frames)
    for side in sides:
        assert side.taken == list(range(60))
        assert not side.order._kept


def test_what_comes_twice_or_too_early_is_not_taken() -> None:
    one, other = Order(), Order()
    first, second = one.numbered(encode(RanksStopped(1))), one.numbered(encode(RanksStopped(2)))
    assert not other.takes(second)
    assert other.takes(first) and not other.takes(first)
    assert other.takes(second) and not other.takes(second)
    assert other.takes(encode(RanksStopped(3)))  # has no number
    for frames in ([], [b""], [b"123", b"456"]):
        with pytest.raises(WireError, match="without a number"):
            number_of(frames)


class Relay:
    """A port before another one, whose connections can be made to swallow what comes, and be cut."""

    def __init__(self, behind: Address) -> None:
        self._behind = behind
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.swallowed = {"to head": 0, "to joiner": 0}  # bytes
        self._swallows = ""

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection((self._behind.host, self._behind.port))
                self._ends += (near, far)
                for source, sink, way in ((near, far, "to head"), (far, near, "to joiner")):
                    thread = threading.Thread(target=self._pass, args=(source, sink, way), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                if self._swallows == way:
                    self.swallowed[way] += len(part)
                else:
                    sink.sendall(part)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def swallow(self, way: str) -> None:
        self._swallows = way

    def cut(self) -> None:
        """Cuts the connections; new ones pass everything."""
        self._swallows = ""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # A beat within a second also where this machine is slow, and none of them may count as silence.
    monkeypatch.setattr("tests.unit.test_hosts_head.WANTED", WantedModel("model", "", (), 8.0))
    made = World()
    yield made
    made.close()
    for link in made.links:
        link.close()


@pytest.fixture
def relay(world: World) -> Iterator[Relay]:
    made = Relay(world.address)
    yield made
    made.close()


def through(world: World, relay: Relay) -> HeadLink:
    """A host that dials the head by the relay, and has not said anything yet."""
    world.links.append(HeadLink(relay.address, SECRET))
    return world.links[-1]


def join(link: HeadLink) -> None:
    link.send(replace(JOIN, name="beta"))
    expect(link, WantedModel)
    link.send(FoundModel())
    expect(link, Welcome)


def test_what_the_head_says_into_a_breaking_connection_comes_by_the_next_one(
    world: World, relay: Relay
) -> None:
    link = through(world, relay)
    join(link)
    relay.swallow("to joiner")
    members = world.head.start({1: ([1], [0])}, 99, bytes(32))
    until(lambda: relay.swallowed["to joiner"] > len(bytes(32)))
    relay.cut()
    assert expect(link, StartRanks).ranks == (1,)
    link.send(RanksStopped(1))
    until(lambda: members[1].has_stopped)
    assert not members[1].lost


def test_what_a_host_says_into_a_breaking_connection_comes_by_the_next_one(
    world: World, relay: Relay
) -> None:
    link = through(world, relay)
    join(link)
    members = world.head.start({1: ([1], [0])}, 99, bytes(32))
    expect(link, StartRanks)
    relay.swallow("to head")
    link.send(RanksStopped(1))
    until(lambda: relay.swallowed["to head"])
    relay.cut()
    until(lambda: members[1].has_stopped)
    assert not members[1].lost


def test_a_host_whose_first_words_are_lost_joins(world: World, relay: Relay) -> None:
    link = through(world, relay)
    until(lambda: link.is_through)
    relay.swallow("to head")
    link.send(replace(JOIN, name="beta"))
    until(lambda: relay.swallowed["to head"])
    relay.cut()
    expect(link, WantedModel)
