"""Copies of whole blocks of the KV cache, in all layers of a pool: where the bytes of a block lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.messages import Load, Step
from tplaunch.worker.buffers.attention import cache_names
from tplaunch.worker.device import Copy, Device
from tplaunch.worker.step.checks import Ints


@dataclass(frozen=True)
class Plane:
    """The elements, or the scales, of all blocks of a cache: one block after another."""

    buffer: str
    start: int  # bytes
    block_bytes: int


class BlockCopier:
    """Has a device copy what a checked step wants copied."""

    def __init__(self, device: Device, load: Load) -> None:
        self._device = device
        self._planes = {windowed: list(_planes(load, windowed)) for windowed in (False, True)}

    def copy(self, step: Step) -> None:
        """Before the step's rows."""
        if step.copies.size or step.window_copies.size:
            copies = [*self._copies(step.copies, False), *self._copies(step.window_copies, True)]
            self._device.copy(copies)

    def _copies(self, blocks: Ints, windowed: bool) -> Iterator[Copy]:
        for source, destination in blocks.reshape(-1, 2).tolist():
            for plane in self._planes[windowed]:
                nbytes, start = plane.block_bytes, plane.start
                yield plane.buffer, start + source * nbytes, start + destination * nbytes, nbytes


def _planes(load: Load, windowed: bool) -> Iterator[Plane]:
    """Yields the planes of all caches of a pool that have any bytes on this rank."""
    limits, kv_type = load.limits, KV_TYPES[load.limits.kv_type]
    for index, layer, held in load.share.held(load.spec):
        attention = layer.attention
        if attention is None or (attention.window is not None) != windowed:
            continue
        cells = limits.block_length * len(held.kv_heads)  # of a block
        key, value = cache_names(index, attention)
        lengths = {value: attention.value_length} | {key: attention.key_length}  # one where both are
        for name, length in lengths.items():
            scales = kv_type.element_plane_bytes(cells * limits.pool(windowed), length)
            element_bytes = kv_type.element_plane_bytes(cells, length)
            scale_bytes = kv_type.nbytes(cells, length) - element_bytes
            for plane in (Plane(name, 0, element_bytes), Plane(name, scales, scale_bytes)):
                if plane.block_bytes:
                    yield plane
