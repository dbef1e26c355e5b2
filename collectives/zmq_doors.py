"""Lets only the right peers speak to a rank: by the place of its socket, and by CURVE.

On one host the sockets lie in the run's private folder, which no other user can enter. Over TCP both ends
prove with CURVE that they know the run's token before either sends or takes in a message, and the token
itself is never sent. Until then a peer can only make ZeroMQ hold one frame of a handshake.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

import zmq
from zmq.utils import z85

from tplaunch.collectives.failures import CollectiveError
from tplaunch.collectives.zmq_wire import MAX_MESSAGE_BYTES

Socket: TypeAlias = "zmq.Socket[bytes]"

CURVE_BYTES = 64  # more than CURVE adds to a message
CURVE_MESSAGE_BYTES = 33  # what it does add: its name, a short nonce, a flag and the authenticator (RFC 26)
FRAME_BYTES = 9  # the flag and length of a frame beyond 255 bytes (RFC 23)
LOOPBACK = "127.0.0.1"
ZONE = re.compile(r"%[^\]]+")  # of a link-local address: a name of one machine's own
HANDSHAKE_MILLISECONDS = 10_000  # a peer that has not proved itself by then is cut off, and may try again


class Door(Protocol):
    """One rank's way to its peers."""

    place: str  # where it listens, for people
    overhead_bytes: int  # what a message takes beyond its own bytes

    def listen(self, inbox: Socket) -> str:
        """Opens the socket to the peers and returns the endpoint to tell them. Raises zmq.ZMQError."""

    def dial(self, outbox: Socket, peer: int, endpoint: str) -> None:
        """Connects the socket to where a peer listens. Raises zmq.ZMQError."""

    def close(self) -> None:
        """Lets go of everything, once no socket is left. Idempotent."""


class FolderDoor:
    """Unix sockets in a folder that only this user can enter.

    They are named by way of a descriptor: a path beyond it may be longer than a socket's name can be, and
    need not be text. Without /proc their own path has to do.
    """

    overhead_bytes = FRAME_BYTES

    def __init__(self, folder: Path, rank: int, name: str = "link") -> None:
        """name: of all sockets of these peers. Raises CollectiveError for a folder that is not there, or that
        others can enter.
        """
        self._name = name
        self._folder, self._rank, self.place = folder, rank, str(folder)
        try:
            self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(folder, error.strerror or "") from error
        found = os.fstat(self._descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            self.close()
            raise self._unusable(folder, "other users can enter it, so its mode must be 0700")

    def _unusable(self, folder: Path, fault: str) -> CollectiveError:
        return CollectiveError(f"rank {self._rank} cannot listen in {str(folder)!r}: {fault}", self._rank)

    def listen(self, inbox: Socket) -> str:
        name = self._socket_name(self._rank)
        inbox.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        inbox.bind(f"ipc://{self._path(name)}")
        Path(self._path(name)).chmod(0o600)  # whatever the umask is
        return name

    def dial(self, outbox: Socket, peer: int, endpoint: str) -> None:
        if endpoint != self._socket_name(peer):  # it would be a path elsewhere
            raise zmq.ZMQError(zmq.EINVAL)
        outbox.connect(f"ipc://{self._path(endpoint)}")

    def _socket_name(self, rank: int) -> str:
        return f"{self._name}-{rank}"

    def _path(self, name: str) -> str:
        folder = Path(f"/proc/self/fd/{self._descriptor}")
        return str((folder if folder.is_dir() else self._folder) / name)

    def close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):  # it is not there yet, or the launcher has removed the whole folder
                Path(self._path(self._socket_name(self._rank))).unlink()
            os.close(self._descriptor)
            self._descriptor = -1


class TcpDoor:
    """TCP with CURVE, by keys that follow from the run's token and the rank.

    Whoever does not know the token knows no rank's public key either. Without it nobody can open a
    handshake with that rank; and without the secret one nobody can pass for it where it was before.
    """

    overhead_bytes = FRAME_BYTES + CURVE_MESSAGE_BYTES

    def __init__(self, host: str, rank: int, token: bytes) -> None:
        """host: an address of this machine; an IPv6 one with brackets or without.

        Raises CollectiveError where ZeroMQ was built without CURVE.
        """
        if not zmq.has("curve"):
            message = (
                f"rank {rank} cannot use TCP: this ZeroMQ was built without CURVE; install pyzmq's wheel"
            )
            raise CollectiveError(message, rank)
        self.place = f"[{host}]" if ":" in host.strip("[]") and not host.startswith("[") else host
        self._rank, self._token = rank, token

    def listen(self, inbox: Socket) -> str:
        inbox.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES + CURVE_BYTES)
        inbox.setsockopt(zmq.IPV6, "[" in self.place)
        inbox.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
        inbox.setsockopt(zmq.CURVE_SERVER, 1)
        inbox.setsockopt(zmq.CURVE_SECRETKEY, secret_key(self._token, self._rank))
        inbox.bind(f"tcp://{self.place}:*")
        return ZONE.sub("", inbox.getsockopt_string(zmq.LAST_ENDPOINT))

    def _reached(self, endpoint: str) -> str:
        """Returns an endpoint of a peer with this machine's own name of the link, where that is needed."""
        zone = ZONE.search(self.place)
        is_link_local = endpoint.startswith("tcp://[fe80:") and ZONE.search(endpoint) is None
        return endpoint.replace("]", f"{zone[0]}]", 1) if zone and is_link_local else endpoint

    def dial(self, outbox: Socket, peer: int, endpoint: str) -> None:
        if not endpoint.startswith("tcp://"):  # it would be a file of this host, or no address at all
            raise zmq.ZMQError(zmq.EINVAL)
        own = secret_key(self._token, self._rank)
        outbox.setsockopt(zmq.IPV6, "[" in endpoint)
        outbox.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
        outbox.setsockopt(zmq.CURVE_SECRETKEY, own)
        outbox.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(own))
        outbox.setsockopt(zmq.CURVE_SERVERKEY, zmq.curve_public(secret_key(self._token, peer)))
        outbox.connect(self._reached(endpoint))

    def close(self) -> None:
        """There is nothing to let go of."""


def open_door(rank: int, token: bytes, folder: Path | None, address: str | None) -> Door:
    """address: to listen on over TCP; without one the folder, and without that loopback."""
    if address is None and folder is not None:
        return FolderDoor(folder, rank)
    return TcpDoor(address or LOOPBACK, rank, token)


def secret_key(token: bytes, rank: int) -> bytes:
    """A rank's CURVE key, in Z85."""
    digest = hashlib.blake2b(rank.to_bytes(8, "little"), key=token, digest_size=32, person=b"tplaunch-ring")
    encode: Callable[[bytes], bytes] = z85.encode
    return encode(digest.digest())
