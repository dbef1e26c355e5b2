"""Bytes per rank, from the tables that the workers allocate by, held against the devices' memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.model import ModelSpec, TensorInfo
from coordinator.plan import Limits, RankShare, padded, rank_shards
from launcher.config import UsageError
from launcher.devices import DeviceChoice
from worker.buffers import Buffer, activation_buffers, cache_buffers, weight_buffers


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
        cache=_total(cache_buffers(spec, share, limits)),
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
    """Raises UsageError naming the device, what its ranks need, and what it has."""
    needed: dict[DeviceChoice, int] = {}
    for share, choice in zip(plan, choices, strict=True):
        needed[choice] = needed.get(choice, 0) + rank_bytes(spec, tensors, share, limits, len(plan)).total
    for choice, num_bytes in needed.items():
        if choice.memory_bytes and num_bytes > choice.memory_bytes:
            raise UsageError(
                f"the plan does not fit: device {choice.index} ({choice.name}) would hold"
                f" {mebibytes(num_bytes)}, but has {mebibytes(choice.memory_bytes)}; give it less with"
                f" --tensor-split, name more devices, or lower --context (now {limits.context_length})"
            )


def mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
