"""Ends a worker whose coordinator, on another host, can't be reached any more.

The process that started the worker does so, too, where it can: but it may itself be frozen.
"""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

Socket: TypeAlias = "zmq.Socket[bytes]"

BEATS_PER_SILENCE = 4


def end_without(socket: Socket, silence_seconds: float) -> None:
    """Ends this process once a socket, not connected yet, has been without a connection for so long.

    ZeroMQ itself asks the other side for signs of life, in a thread that nothing here holds up.
    """
    milliseconds = int(silence_seconds * 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds // BEATS_PER_SILENCE)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    watching = threading.Thread(
        target=_watch, args=(monitor, silence_seconds), name="tplaunch head", daemon=True
    )
    watching.start()


def _watch(monitor: Socket, silence_seconds: float) -> None:
    lost: float | None = time.monotonic()  # since when there is no connection
    try:
        while True:
            left = None if lost is None else max(0.0, lost + silence_seconds - time.monotonic())
            if not monitor.poll(None if left is None else math.ceil(left * 1000)):
                os._exit(1)
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                lost = None
            elif event == zmq.EVENT_DISCONNECTED and lost is None:
                lost = time.monotonic()
    except zmq.ContextTerminated:  # the worker ends in order
        monitor.close(linger=0)
