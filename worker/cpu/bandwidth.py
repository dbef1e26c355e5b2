"""Measures how fast cores read their memory node. Linux only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

MAX_THREADS = 32  # as many as any memory needs to be busy
ARRAY_BYTES = 32 << 20  # of each thread; of all together more than caches hold
SECONDS = 0.1  # that all read
PATIENCE_SECONDS = 5.0  # for threads that share their cores with other programs, to begin together


def read_bandwidth(cores: Sequence[int]) -> float:
    """Returns the bytes per second that threads on these cores read together, each from an array of its own.

    A thread adds up its array, which it has written itself, so that it lies in its core's node. NumPy adds
    without Python's lock.
    """
    cores = cores[:MAX_THREADS]
    begin = threading.Barrier(len(cores), timeout=PATIENCE_SECONDS)
    read: list[float] = []

    def reader(core: int) -> None:
        os.sched_setaffinity(0, {core})  # this thread's
        values = np.ones(ARRAY_BYTES // 4, np.float32)
        values.sum()
        with suppress(threading.BrokenBarrierError):
            begin.wait()
        start = now = time.perf_counter()
        count = 0
        while now - start < SECONDS:
            values.sum()
            count, now = count + 1, time.perf_counter()
        read.append(count * ARRAY_BYTES / (now - start))

    threads = [threading.Thread(target=reader, args=(core,)) for core in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(read)
