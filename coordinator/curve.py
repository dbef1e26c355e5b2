"""Sockets that only those can speak through who know a secret: CURVE, with the keys of both sides checked.

All keys follow from a secret that both sides know and that is never sent. Who does not know it can open no
handshake, and make a socket hold no more than one frame of one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from typing import TypeAlias

import zmq
from zmq.utils import z85

Socket: TypeAlias = "zmq.Socket[bytes]"

SECRET_BYTES = 32
HANDSHAKE_MILLISECONDS = 5_000  # a peer that has not proved itself by then is cut off
CURVE_BYTES = 64  # more than CURVE adds to a message
GATE_ENDPOINT = "inproc://zeromq.zap.01"  # where ZeroMQ asks, by https://rfc.zeromq.org/spec/27/
GATE_VERSION = b"1.0"
SERVER = "server"


def has_curve() -> bool:
    """Tells whether this ZeroMQ was built with CURVE."""
    return bool(zmq.has("curve"))


def secret_key(secret: bytes, name: str) -> bytes:
    """Returns the secret CURVE key of one of those who know the secret, in Z85."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    digest = hashlib.blake2b(name.encode(), key=secret, digest_size=32, person=b"tplaunch-curve")
    encode: Callable[[bytes], bytes] = z85.encode
    return encode(digest.digest())


def public_key(secret: bytes, name: str) -> bytes:
    """Returns the public key that belongs to secret_key()."""
    return zmq.curve_public(secret_key(secret, name))


def serve_with(socket: Socket, secret: bytes) -> None:
    """Makes a socket, before it is bound, serve those who know the secret. Its context has a Gate."""
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key(secret, SERVER))


def dial_with(socket: Socket, secret: bytes, name: str) -> None:
    """Makes a socket, before it is connected, dial the server of those who know the secret, by a name."""
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key(secret, name))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public_key(secret, name))
    socket.setsockopt(zmq.CURVE_SERVERKEY, public_key(secret, SERVER))


class Gate:
    """Admits to a context's servers the keys of those who know a secret, by their names, and no other.

    ZeroMQ asks it by ZAP, in a thread of its own. It ends with the context: terminate that to close it.
    """

    def __init__(self, context: zmq.Context[Socket], secret: bytes, names: Collection[str]) -> None:
        decode: Callable[[bytes], bytes] = z85.decode
        self._admitted = {decode(public_key(secret, name)): name.encode() for name in names}
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(GATE_ENDPOINT)
        self._thread = threading.Thread(target=self._answer, name="tplaunch gate", daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        try:
            while True:
                asked = self._socket.recv_multipart()
                self._socket.send_multipart(self._verdict(asked))
        except zmq.ContextTerminated:
            pass
        finally:
            self._socket.close()

    def _verdict(self, asked: list[bytes]) -> list[bytes]:
        request = asked[1] if len(asked) > 1 else b""
        mechanism, credentials = (asked[5], asked[6:]) if len(asked) > 5 else (b"", [])
        name = self._admitted.get(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else None
        if name is None:
            return [GATE_VERSION, request, b"400", b"this key is not admitted", b"", b""]
        return [GATE_VERSION, request, b"200", b"OK", name, b""]
