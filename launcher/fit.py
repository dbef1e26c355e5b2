"""Bytes per rank, from the tables that the workers allocate by, held against the devices' memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from coordinator.model import ModelSpec, TensorInfo
from coordinator.plan import Limits, RankShare, padded
from coordinator.shards import Shard, rank_shards
from launcher.config import UsageError
from launcher.devices import DeviceChoice
from worker.buffers import Buffer, activation_buffers, cache_buffers, weight_buffers
from worker.stacks import stack_shards
from worker.state_buffers import state_buffers

HOST = "this machine's memory"


@dataclass(frozen=True)
class RankBytes:
    """What one rank allocates on its device."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations


def rank_bytes(
    spec: ModelSpec, tensors: Mapping[str, TensorInfo], share: RankShare, limits: Limits, num_ranks: int
) -> RankBytes:
    """Exactly the buffers that a worker creates, with the partial sums of all ranks."""
    shards = rank_shards(spec, share, tensors)
    partials = 2 * num_ranks * limits.max_rows * padded(spec.embedding_length) * 4
    return RankBytes(
        weights=_total(weight_buffers(shards)),
        cache=_total(cache_buffers(spec, share, limits)) + _total(state_buffers(spec, share, limits)),
        activations=_total(activation_buffers(spec, share, shards, limits)) + partials,
    )


def _total(buffers: Mapping[str, Buffer]) -> int:
    return sum(buffer.nbytes for buffer in buffers.values())


def check_fit(
    spec: ModelSpec,
    tensors: Mapping[str, TensorInfo],
    plan: Sequence[RankShare],
    limits: Limits,
    choices: Sequence[DeviceChoice],
) -> None:
    """Raises UsageError naming the device, what its ranks need, and what it has.

    All ranks that run on the CPU share this machine's memory, whatever their driver reports of it.
    """
    needed: dict[str, int] = {}
    capacity: dict[str, int] = {}
    for share, choice in zip(plan, choices, strict=True):
        place = HOST if choice.on_cpu else f"device {choice.index} ({choice.name})"
        capacity[place] = psutil.virtual_memory().total if choice.on_cpu else choice.memory_bytes
        num_bytes = rank_bytes(spec, tensors, share, limits, len(plan)).total
        if choice.index is None:
            num_bytes += widening(rank_shards(spec, share, tensors)) + widened_cache(spec, share, limits)
        needed[place] = needed.get(place, 0) + num_bytes
    for place, num_bytes in needed.items():
        if num_bytes > capacity[place]:
            raise UsageError(
                f"the plan does not fit: {place} would hold {mebibytes(num_bytes)}, but has"
                f" {mebibytes(capacity[place])}; give it less with --tensor-split, name more devices,"
                f" or lower --context (now {limits.context_length})"
            )


def widening(shards: Mapping[str, Shard]) -> int:
    """What NumPy needs more: it computes with float32 copies of the matrices."""
    stacks = stack_shards(shards).values()
    return sum(4 * stack.rows * stack.padded_columns - stack.nbytes for stack in stacks)


def widened_cache(spec: ModelSpec, share: RankShare, limits: Limits) -> int:
    """NumPy's copy of the KV cache in float32."""
    return _total(cache_buffers(spec, share, replace(limits, kv_type="f32")))


def mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
