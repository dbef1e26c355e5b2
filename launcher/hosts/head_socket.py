"""Opens the socket at which hosts join, with limits on what strangers can make it hold."""

from __future__ import annotations

import os

import zmq

from tplaunch.coordinator.curve import CURVE_BYTES, Gate, serve_with
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.keys import JOINER
from tplaunch.launcher.hosts.messages import MAX_FRAME_BYTES
from tplaunch.launcher.hosts.post import Post

MAX_QUEUED = 256  # messages of one host that have not been taken in
MAX_WAITING = 1024  # connections that are being accepted


def open_post(listen: Address, secret: bytes | None, tick_seconds: float) -> Post:
    """Returns the post of a socket that listens there, not started yet. secret: None to take in anybody.

    Raises UsageError for an address that can't be listened on.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # for one whose connection broke, and who dials again
    socket.setsockopt(zmq.IPV6, ":" in listen.host)
    socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
    socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
    socket.setsockopt(zmq.BACKLOG, MAX_WAITING)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + CURVE_BYTES)
    if secret is not None:
        Gate(context, secret, [JOINER])
        serve_with(socket, secret)
    try:
        socket.bind(listen.endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        context.term()
        reason = os.strerror(error.errno or 0)  # ZeroMQ's own text repeats the address
        raise UsageError(f"--listen {listen}: {reason}; choose another address or port") from error
    return Post(context, socket, tick_seconds)
