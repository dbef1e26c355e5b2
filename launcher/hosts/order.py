"""Keeps messages in order, each once, where a connection breaks and comes back: what was lost is sent again.

Each message has a number, and each beat says how many messages came before it: whoever has taken fewer says
so by its own next beat. Knows no socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.messages import Beat, encode, number_of


class Order:
    """Both directions of what the head and one host say to each other. For one thread at a time."""

    def __init__(self) -> None:
        self._sent = self._taken = 0  # the numbers of the last messages
        self._kept: deque[Sequence[Frame]] = deque()  # those sent of which it is not known that they came
        self._lacks = False  # and the other side does not know that yet
        self._is_asked = False  # to send again what is kept

    @property
    def has_sent(self) -> bool:
        return self._sent > 0

    def numbered(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Returns an encoded message, without a number yet, as the next one; keeps it until it has come."""
        self._sent += 1
        found = (self._sent.to_bytes(len(frames[0]), "little"), *frames[1:])
        self._kept.append(found)
        return found

    def takes(self, frames: Sequence[Frame]) -> bool:
        """Tells whether a message that came is the next one; it counts as taken then.

        Another one was taken before, or came too early, and comes again. One without a number always counts.
        """
        number = number_of(frames)
        if number == self._taken + 1:
            self._taken = number
            return True
        return number == 0

    def hear(self, beat: Beat) -> None:
        """Notes what the other side's beat says of both directions."""
        while self._kept and number_of(self._kept[0]) <= beat.taken:
            self._kept.popleft()
        self._is_asked |= beat.lacks
        self._lacks |= beat.sent > self._taken  # what it sent before comes before it, or never

    def beat(self) -> Sequence[Frame]:
        """Returns this side's beat, to be sent at once."""
        lacks, self._lacks = self._lacks, False
        return encode(Beat(self._sent, self._taken, lacks))

    def again(self) -> Sequence[Sequence[Frame]]:
        """Returns the messages that are to be sent again, once they were asked for."""
        is_asked, self._is_asked = self._is_asked, False
        return tuple(self._kept) if is_asked else ()
