"""Tests a joining host's connection to its head, without one."""

import queue

import pytest

from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head_link import HeadLink
from tplaunch.launcher.hosts.messages import FromHead, Welcome, encode


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
