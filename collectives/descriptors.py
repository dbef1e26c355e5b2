"""Hands a descriptor from one process to others of the same user, which know each other by their numbers.

What has no name and can't be opened again by /proc, as dma-bufs can't, has to be handed over by a socket.
The kernel names that, and so nothing lies in a folder; it also tells each end who the other one is. Nobody
waits here: those who hand over and those who take tell each other in between, by a barrier of theirs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

_CREDENTIALS = struct.Struct("=3i")  # struct ucred: process, user and group
_NAME = "\0{:05x}"  # as the kernel names sockets that are bound to nothing, unix(7)
_DESCRIPTOR = struct.Struct("=i")
_MARK = b"d"  # comes with the descriptor
_STRANGERS = 16  # that are turned away before giving up: any process may knock


class HandoverError(RuntimeError):
    """A descriptor was not handed over; one sentence that says why."""


class Door:
    """The end of the process that hands over."""

    def __init__(self, num_callers: int) -> None:
        """Raises HandoverError where there are no such sockets."""
        self._num_callers = num_callers
        with _said("no socket can be made to hand memory over"):
            self._socket = _open_socket()
            try:
                self._socket.bind("")
                self._socket.listen(num_callers + _STRANGERS)
                name = self._socket.getsockname()
            except BaseException:
                self.close()
                raise
        self.number = int(name[1:], 16)  # under 2^20

    def hand_over(self, descriptor: int, processes: Sequence[int]) -> None:
        """Gives these processes the descriptor: all of them have knocked. Raises HandoverError for any that
        has not."""
        awaited = Counter(processes)
        with _said("memory could not be handed over"):
            for _ in range(self._num_callers + _STRANGERS):
                if not awaited.total():
                    return
                caller, _ = self._socket.accept()
                with caller:
                    process = _process_behind(caller)
                    if awaited[process] > 0:
                        socket.send_fds(caller, [_MARK], [descriptor])
                        awaited[process] -= 1
        if awaited.total():
            raise HandoverError(f"memory was not handed over: {awaited.total()} ranks were kept away")

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


class Caller:
    """The end of a process that is given the descriptor."""

    def __init__(self, number: int, process: int) -> None:
        """Knocks at the door of this number. Raises HandoverError where it is not that process's."""
        self._socket = _open_socket()
        try:
            with _said("the rank that hands memory over can't be reached"):
                self._socket.connect(_NAME.format(number))
                found = _process_behind(self._socket)
            if found != process:
                raise HandoverError(f"memory is handed over by another process than {process}")
        except BaseException:
            self.close()
            raise

    def take(self) -> int:
        """Returns the descriptor, the caller's to close; it has been handed over. Raises HandoverError."""
        with _said("memory was not handed over"):
            # Room for one descriptor: the kernel drops others. Python's recv_fds() takes no flags for them.
            mark, messages, _, _ = self._socket.recvmsg(
                len(_MARK), socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
            )
        for level, kind, data in messages:
            if (level, kind, len(data)) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.size):
                return int(_DESCRIPTOR.unpack(data)[0])
        raise HandoverError(f"no memory came from the rank that hands it over, but {mark!r}")

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


def _open_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _process_behind(connected: socket.socket) -> int:
    """Returns the process at the other end, if it is of this user; else 0, which no process has."""
    told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(told)
    return int(process) if user == os.geteuid() else 0


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HandoverError(f"{what}: {error.strerror or error}") from error
