"""Loads a rank's shards, several at once: while one waits for the disk or the device, others are repacked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from coordinator.model import TensorInfo
from coordinator.plan import Shard
from worker.buffers import weight_buffers
from worker.device import Device
from worker.model_file import load_shard
from worker.weight_source import WeightSource

MAX_THREADS = 4  # more don't copy faster, and each may need staging memory


def load_shards(
    device: Device, weights: WeightSource, shards: Mapping[str, Shard], tensors: Mapping[str, TensorInfo]
) -> Iterator[int]:
    """Fills every shard's buffer; yields the device bytes of each shard when it is there.

    The largest come first, so that no thread is left with one of them at the end.
    """
    sizes = {name: buffer.nbytes for name, buffer in weight_buffers(shards).items()}

    def load(name: str) -> int:
        shard = shards[name]
        return sum(load_shard(device, weights, name, shard, tensors[shard.tensor]))

    pool = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))), "load")
    try:
        waiting = [pool.submit(load, name) for name in sorted(shards, key=lambda name: -sizes[name])]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
