"""Tests a joining host's connection to its head, without one."""

import functools
import itertools
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest
import zmq

from tplaunch.launcher.hosts import head_link
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head_link import SHUT_SECONDS, HeadLink
from tplaunch.launcher.hosts.measurements import DeviceSpeed
from tplaunch.launcher.hosts.messages import FromHead, Welcome, encode
from tplaunch.launcher.hosts.post import MAX_CONNECTIONS, Clerk, Post
from tplaunch.running_clock import RunningClock


class ReadAtOnce(queue.SimpleQueue[FromHead]):
    """The other thread has each message the very moment in which it is there."""

    def put(self, item: FromHead, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        assert self.link.receive() == item

    link: HeadLink


def test_a_message_may_be_received_in_the_moment_in_which_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    link = HeadLink(Address("127.0.0.1", 1), None)
    try:
        received = ReadAtOnce()
        received.link = link
        monkeypatch.setattr(link, "_received", received)
        link.take([bytes(frame) for frame in encode(Welcome(1, 2))])
        assert link.receive() is None
    finally:
        link.close()


def test_what_is_sent_too_late_gets_into_no_other_descriptor() -> None:
    """A thread that measures a device goes on when the head has ended, and the next one is joined."""
    link = HeadLink(Address("127.0.0.1", 1), None)
    link.close()
    later = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(64)]  # they get the numbers that are free again
    try:
        link.send(DeviceSpeed(0, 1.0))
        for descriptor in later:
            with pytest.raises(BlockingIOError):
                os.eventfd_read(descriptor)
    finally:
        for descriptor in later:
            os.close(descriptor)


def test_a_host_that_was_stopped_does_not_take_the_key_for_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that was cut before a word may only say so once it was tried again for some time."""
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(
        head_link, "RunningClock", functools.partial(RunningClock, lambda: float(next(hours)))
    )
    link = HeadLink(Address("127.0.0.1", 1), None)
    link.close()  # the thread ends: what it would do is done here
    link.hear(zmq.EVENT_DISCONNECTED)
    for _ in range(int(SHUT_SECONDS)):
        link.tick()
        assert link._loss is None
    monkeypatch.setattr(link, "_wake", os.eventfd(0))
    link.tick()
    assert link._loss is not None and "takes no connection with this key" in link._loss
    os.close(link._wake)


class Hastened(Clerk):
    """Is told by a message that ticks are to be short from now on."""

    post: Post

    def __init__(self) -> None:
        self.has_ticked = threading.Event()

    def take(self, frames: Sequence[bytes]) -> None:
        self.post.tick_seconds = 0.01

    def tick(self) -> None:
        self.has_ticked.set()


def test_a_shorter_tick_counts_at_once() -> None:
    """A head that bears little silence would else give up every host before its first beat."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clerk, socket, other = Hastened(), context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    clerk.post = Post(context, socket, 3600.0)
    socket.bind("inproc://post")
    other.connect("inproc://post")
    clerk.post.start(clerk)
    other.send(b"")
    assert clerk.has_ticked.wait(20)
    other.close(linger=0)
    clerk.post.close()


LIMITED = """
import resource, subprocess, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head_link import HeadLink
link = HeadLink(Address("127.0.0.1", 1), None)
tell = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
subprocess.run([sys.executable, "-c", tell], check=True)
link.close()
"""


def test_workers_of_a_joining_host_have_room_for_strangers_connections() -> None:
    """At the limit of open files ZeroMQ's thread would spin; workers inherit the one that was raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert int(told.stdout) == (
        MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MAX_CONNECTIONS)
    )
