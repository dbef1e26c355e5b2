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

Socket: TypeAlias = "zmq.Socket[bytes]"

BEATS_PER_SILENCE = 4
START_SECONDS = 20.0  # for the first connection of a worker on a busy machine


def end_without(socket: Socket, silence_seconds: float, start_seconds: float = START_SECONDS) -> None:
    """Ends this process once a socket, not connected yet, has been without a connection for so long.

    start_seconds: for the first connection.
    ZeroMQ itself asks the other side for signs of life, in a thread that nothing here holds up.
    """
    milliseconds = int(silence_seconds * 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds // BEATS_PER_SILENCE)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    watching = threading.Thread(
        target=_watch, args=(monitor, silence_seconds, start_seconds), name="tplaunch head", daemon=True
    )
    watching.start()


def _watch(monitor: Socket, silence_seconds: float, start_seconds: float) -> None:
    from zmq.utils.monitor import recv_monitor_message  # imports asyncio, which no other rank needs

    end: float | None = time.monotonic() + start_seconds  # where there is no connection until then
    try:
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not monitor.poll(None if left is None else math.ceil(left * 1000)):
                os._exit(1)
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                end = None
            elif event == zmq.EVENT_DISCONNECTED and end is None:
                end = time.monotonic() + silence_seconds
    except zmq.ContextTerminated:  # the worker ends in order
        monitor.close(linger=0)
