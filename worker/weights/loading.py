"""Loads a rank's weights, several stacks at once: while one waits for disk or device, another is repacked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.worker.buffers.stacks import Stack
from tplaunch.worker.device import Device
from tplaunch.worker.weights.model_file import load_stack
from tplaunch.worker.weights.source import WeightSource

MAX_THREADS = 4  # more don't copy faster, and each may need staging memory


def load_stacks(
    device: Device, weights: WeightSource, stacks: Mapping[str, Stack], tensors: Mapping[str, TensorInfo]
) -> Iterator[int]:
    """Fills every stack's buffer; yields the device bytes of each stack when it is there.

    The largest come first, so that no thread is left with one of them at the end.
    """

    def load(stack: Stack) -> int:
        return sum(load_stack(device, weights, stack, tensors))

    by_size = sorted(stacks.values(), key=lambda stack: stack.nbytes, reverse=True)
    pool = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))), "load")
    try:
        waiting = [pool.submit(load, stack) for stack in by_size]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
