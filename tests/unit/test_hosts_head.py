"""The head and joining hosts over real sockets, in one process: who is admitted, and who is lost."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import msgpack
import pytest
import zmq

from tests.patience import PATIENCE
from tests.unit.test_hosts_places import JOIN
from tplaunch.coordinator.curve import dial_with
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts import head
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.copies import AskCopy, CopySeen
from tplaunch.launcher.hosts.head import Head
from tplaunch.launcher.hosts.head_link import HeadGone, HeadLink
from tplaunch.launcher.hosts.keys import JOINER
from tplaunch.launcher.hosts.measurements import AskSpeed, DeviceSpeed
from tplaunch.launcher.hosts.members import Member
from tplaunch.launcher.hosts.messages import (
    End,
    FoundModel,
    FromHead,
    Leave,
    RankEnded,
    RanksStarted,
    RanksStopped,
    Refused,
    StartRanks,
    StopRanks,
    WantedModel,
    Welcome,
    encode,
)
from tplaunch.running_clock import RunningClock

SECRET = bytes(range(32))
WAITS = PATIENCE  # seconds, for what should take a moment
SILENCE = 0.8  # seconds
WANTED = WantedModel("model", "", (), SILENCE)
M = TypeVar("M")


class World:
    """A head, and those who dial it."""

    def __init__(self, num_hosts: int = 2, *, by_number: bool = False) -> None:
        with zmq.Context() as context, context.socket(zmq.REP) as probe:
            port = probe.bind_to_random_port("tcp://127.0.0.1")
        self.address = Address("127.0.0.1", port)
        self.head = Head(self.address, SECRET, num_hosts, WANTED, by_number=by_number)
        self.links: list[HeadLink] = []
        self.said: list[str] = []
        self.is_open = True

    def dial(self, secret: bytes | None = SECRET) -> HeadLink:
        self.links.append(HeadLink(self.address, secret))
        return self.links[-1]

    def join(self, name: str = "beta") -> HeadLink:
        """A host that has joined."""
        link = self.dial()
        link.send(replace(JOIN, name=name))
        expect(link, WantedModel)
        link.send(FoundModel())
        expect(link, Welcome)
        return link

    def members(self) -> list[Member]:
        return self.head.await_hosts(WAITS, lambda: None, self.said.append)

    def close(self, failure: str = "") -> None:
        if self.is_open:
            self.is_open = False
            self.head.close(failure)


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(num_hosts: int = 2, *, by_number: bool = False) -> World:
        made.append(World(num_hosts, by_number=by_number))
        return made[-1]

    yield make
    for world in made:
        world.close()
        for link in world.links:
            link.close()


def receive(link: HeadLink) -> FromHead:
    deadline = time.monotonic() + WAITS
    while (message := link.receive()) is None:
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)
    return message


def expect(link: HeadLink, kind: type[M]) -> M:
    message = receive(link)
    assert isinstance(message, kind), message
    return message


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAITS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_hosts_join_and_are_told_of_the_end(worlds: Callable[..., World]) -> None:
    world = worlds(3)
    one, two = world.join("one"), world.join("two")
    assert [member.title for member in world.members()] == ["host 1 (one)", "host 2 (two)"]
    assert "host 1 (one) has joined by eth0 (10.0.0.2, 1 Gbit/s), with 1 device (card)" in world.said[0]
    assert world.said[0].endswith("; 1 more to come")
    world.close("it failed so")
    assert expect(one, End).failure == expect(two, End).failure == "it failed so"


def test_who_asks_in_vain_is_told_why(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    old = world.dial()
    old.send(replace(JOIN, version=0))
    assert "install the same release" in expect(old, Refused).reason
    without = world.dial()
    without.send(JOIN)
    expect(without, WantedModel)
    without.send(FoundModel("I have another model"))
    assert expect(without, Refused).reason == "I have another model"
    world.join()
    late = world.dial()
    late.send(JOIN)
    assert expect(late, Refused).reason == "the run has all of its 2 hosts"
    assert len(world.members()) == 1 and len(world.said) == 4


def test_an_early_applicant_gets_the_place_of_one_that_falls_silent(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    world.join("lost").close()
    world.links.clear()
    another = world.dial()
    another.send(replace(JOIN, name="another"))
    expect(another, WantedModel)
    another.send(FoundModel())
    assert expect(another, Welcome).host == 1
    assert [member.join.name for member in world.members()] == ["another"]
    assert "host 1 (lost) closed its connection" in " ".join(world.said)


def test_a_run_knows_its_own_hosts(worlds: Callable[..., World]) -> None:
    """The run that they are in is told of them, also when another has taken the place."""
    world = worlds(2)
    first = world.join("first")
    world.members()
    members = world.head.start({1: ([1, 2], [0, 0])}, 99, bytes(32))
    start = expect(first, StartRanks)
    assert (start.ranks, start.devices, start.port, start.secret) == ((1, 2), (0, 0), 99, bytes(32))
    first.send(RanksStarted(start.run, "/logs"))
    first.send(RankEnded(start.run, 2, "rank 2 (card) ended: killed"))
    first.send(RankEnded(start.run + 1, 1, "of another run"))
    until(lambda: world.head.faults(members.values()))
    assert world.head.faults(members.values()) == [(members[1], {2: "rank 2 (card) ended: killed"})]
    first.send(Leave("it was told to"))
    until(lambda: members[1].lost)
    world.join("second")
    assert [member.lost for member, _ in world.head.faults(members.values())] == ["has left: it was told to"]
    again = world.head.start({1: ([1], [0])}, 99, bytes(32))
    assert again[1].join.name == "second" and not world.head.faults(again.values())
    world.head.stop(members.values(), at_once=True, keeps_logs=True, seconds=3600)  # not for the lost


def test_a_host_tells_how_fast_its_devices_are(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    link = world.join()
    (member,) = world.members()
    link.send(DeviceSpeed(0, 2e9))
    link.send(DeviceSpeed(1, 0.0, "its driver has gone"))
    until(lambda: len(member.speeds) == 2)  # what is known is not asked for
    assert world.head.ask_speed(1, 0, RankOptions(), WAITS) == 2e9
    with pytest.raises(RunError, match=r"host 1 \(beta\): its driver has gone"):
        world.head.ask_speed(1, 1, RankOptions(), WAITS)
    with pytest.raises(RunError, match="should tell how fast its device is, and did not within 0 s"):
        world.head.ask_speed(1, 2, RankOptions(without=("int64",)), 0)
    asked = expect(link, AskSpeed)
    assert (asked.device, asked.options.without) == (2, ("int64",))


def test_hosts_tell_what_has_become_of_their_copies(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds(3)
    links = [world.join("one"), world.join("two")]
    members = world.members()
    change = "/m.gguf was written to while it was in use"

    def answer() -> None:
        for link, said in zip(links, ("", change), strict=True):
            number = expect(link, AskCopy).number
            link.send(CopySeen(number - 1, "an answer to an earlier question"))
            link.send(CopySeen(number, said, bool(said)))

    answering = threading.Thread(target=answer)
    answering.start()
    ((member, seen),) = world.head.ask_copies(members)
    answering.join()
    assert (member, seen.change, seen.is_overwriting) == (members[1], change, True)
    monkeypatch.setattr(head, "COPY_SECONDS", 0.0)
    assert world.head.ask_copies(members[:1]) == []  # it does not say, and is not waited for long


def test_stopping_waits_for_all(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    link = world.join()
    members = world.head.start({1: ([1], [0])}, 99, bytes(32))
    run = expect(link, StartRanks).run
    world.head.stop(members.values(), at_once=False, keeps_logs=False, seconds=0.05)
    stop = expect(link, StopRanks)
    assert (stop.run, stop.at_once, members[1].has_stopped) == (run, False, False)
    link.send(RanksStopped(run))
    until(lambda: members[1].has_stopped)


def test_a_silent_host_is_lost_and_told_so(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mute = context.socket(zmq.DEALER)
    mute.setsockopt(zmq.RCVTIMEO, int(WAITS * 1000))
    dial_with(mute, SECRET, JOINER)
    mute.connect(world.address.endpoint)
    mute.send_multipart(encode(JOIN))
    mute.recv_multipart()
    mute.send_multipart(encode(FoundModel()))
    (member,) = world.members()
    until(lambda: member.lost)
    assert member.lost == "said nothing for 0.8 s: it is off, frozen, or cut off from the network"
    while b"given this host up" not in mute.recv_multipart()[1]:
        pass  # it was welcome at first
    mute.close(linger=0)
    context.term()


def test_a_host_that_falls_silent_while_it_is_joining_is_named(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mute = context.socket(zmq.DEALER)
    dial_with(mute, SECRET, JOINER)
    mute.connect(world.address.endpoint)
    mute.send_multipart(encode(JOIN))

    def look() -> None:
        if any("which was joining, said nothing for 0.8 s" in line for line in world.said):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        world.head.await_hosts(WAITS, look, world.said.append)
    mute.close(linger=0)
    context.term()


def fields(name: str, **values: int | float | str) -> list[bytes]:
    """A message as it is sent, whatever is in it."""
    return [msgpack.packb([name, values])]


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [b"\x93\x01\x02\x03"],
        encode(Refused("a message of the head's")),
        [encode(JOIN)[0][:-1]],
        [encode(FoundModel())[0], b"more"],
        [bytes(100_000)],
        fields("RankEnded", run=1, rank=1 << 40, how="ended"),
        fields("RankEnded", run=1, rank=-1, how="ended"),
        fields("DeviceSpeed", device=1 << 40, weights_per_second=1.0, fault=""),
        fields("RanksStarted", run=1, logs="/" * 10_000),
    ],
)
def test_what_is_no_message_puts_out_its_sender_alone(
    worlds: Callable[..., World], frames: list[bytes]
) -> None:
    world = worlds(3)
    good, bad = world.join("good"), world.join("bad")
    world.members()
    bad._post.send(frames)
    assert "does not understand it" in expect(bad, Refused).reason
    stranger = world.dial()
    stranger._post.send(frames)
    assert "does not understand it" in expect(stranger, Refused).reason
    faults = world.head.faults(world.head.start({1: ([1], [0])}, 99, bytes(32)).values())
    assert not faults and expect(good, StartRanks)


@pytest.mark.parametrize("secret", [None, bytes(32)])
def test_a_wrong_key_is_a_sentence_for_the_joiner(
    worlds: Callable[..., World], secret: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tplaunch.launcher.hosts.head_link.SHUT_SECONDS", 0.2)
    world = worlds(2)
    stranger = world.dial(secret)
    stranger.send(JOIN)
    with pytest.raises(HeadGone, match="takes no connection with this key"):
        receive(stranger)
    assert not stranger.is_through
    world.join()


def test_a_wait_ends(worlds: Callable[..., World]) -> None:
    world = worlds(3)
    world.join("one")
    with pytest.raises(RunError, match=r"2 of 3 hosts were there after 0 s \(this one, host 1 \(one\)\)"):
        world.head.await_hosts(0, lambda: None, world.said.append)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        world.head.await_hosts(WAITS, stop, world.said.append)


def test_hosts_that_have_numbers_are_missed_by_them(worlds: Callable[..., World]) -> None:
    world = worlds(4, by_number=True)
    link = world.dial()
    link.send(replace(JOIN, wanted_host=2))
    expect(link, WantedModel)
    link.send(FoundModel())
    assert expect(link, Welcome).host == 2
    missing = r"\(this one, host 2 \(beta\)\), node ranks 1 and 3 are missing; --load-timeout"
    with pytest.raises(RunError, match=rf"2 of 4 hosts were there after 0 s {missing}"):
        world.head.await_hosts(0, lambda: None, world.said.append)
    assert world.said[0].endswith("; node ranks 1 and 3 are missing")


def test_a_head_that_was_stopped_for_long_has_not_waited_for_long(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z: between two looks at the clock an hour has passed."""
    world, hours = worlds(2), itertools.count(0, 3600)
    monkeypatch.setattr(head, "RunningClock", functools.partial(RunningClock, lambda: float(next(hours))))

    def look() -> None:
        if next(looks) == 3:
            raise InterruptedError

    looks = itertools.count(1)
    with pytest.raises(InterruptedError):
        world.head.await_hosts(600, look, world.said.append)


def test_an_address_that_is_taken(worlds: Callable[..., World]) -> None:
    world = worlds(2)
    with pytest.raises(UsageError, match=f"--listen {world.address}: .*choose another"):
        Head(world.address, SECRET, 2, WANTED)
