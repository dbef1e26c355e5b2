"""Waits for ranks that load their shares."""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.coordinator.messages import Progress, Ready
from tplaunch.coordinator.serving.channel import Channel, WorkerError

OnProgress = Callable[[int, Progress], None]  # rank, how far it is


def await_ready(channel: Channel, timeout_seconds: float, on_progress: OnProgress) -> list[Ready]:
    """Returns what each rank says once it is ready, in rank order.

    A rank has so many seconds from each sign of its own to the next. Raises WorkerError.
    """
    clock = channel.clock
    ends = dict.fromkeys(range(channel.num_ranks), clock() + timeout_seconds)
    ready: dict[int, Ready] = {}
    while ends:
        last = min(ends, key=ends.__getitem__)
        received = channel.receive(ends[last])
        if received is None:
            raise WorkerError(
                last,
                f"rank {last} got no further in loading for {timeout_seconds:g} s;"
                " --load-timeout allows more",
            )
        rank, message = received
        if isinstance(message, Progress):
            on_progress(rank, message)
            ends[rank] = clock() + timeout_seconds
        elif isinstance(message, Ready) and rank in ends:
            ready[rank] = message
            del ends[rank]
        else:
            raise WorkerError(rank, f"rank {rank} sent {type(message).__name__} while loading")
    return [ready[rank] for rank in range(channel.num_ranks)]
