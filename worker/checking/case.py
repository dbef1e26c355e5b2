"""A case: ops to run as one segment, and what their buffers hold; any device runs it.

Both the self-check of a device and the tests of the kernels are made of cases.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.cuts import CUT, NO_SHORT_CUTS, ShortCuts, parts_of
from tplaunch.worker.buffers.step import (
    INDIRECT_WORD,
    NO_SLOT,
    SHORT_CUT_WORDS,
    StepLayout,
    StepView,
    attention_groups,
    attention_vectors,
)
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import Device
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.cache import DTYPES as KV_DTYPES
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment

PART_BYTES = 8 << 20  # that are written to a device at once: it may have to copy them on

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def page_aligned(shape: tuple[int, ...]) -> Bytes:
    """Zeroed bytes in pages of their own, as shared memory is."""
    nbytes = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)[:nbytes].reshape(shape)


def write_bytes(device: Device, buffer: str, offset: int, data: Bytes) -> None:
    """Fills a buffer from an array, as much at once as a device takes."""
    for start in range(0, data.size, PART_BYTES):
        part = data[start : start + PART_BYTES]

        def copy(places: list[Bytes], part: Bytes = part) -> None:
            places[0][:] = part

        device.fill(buffer, [(offset + start, part.size)], copy)


@dataclass
class Case:
    """Ops to run as one segment, on buffers that hold these arrays at first."""

    limits: Limits
    ops: tuple[Op, ...]
    arrays: Arrays
    num_rows: int = 1
    rows: int = 1  # of the program: its bucket
    logit_rows: tuple[int, ...] = ()
    max_logit_rows: int = 0
    positions: tuple[int, ...] = ()
    table_starts: tuple[int, ...] = ()
    tables: tuple[int, ...] = ()
    window_tables: tuple[int, ...] = ()
    run_starts: tuple[int, ...] = ()  # and last the number of rows
    read_slots: tuple[int | None, ...] = ()  # None: the state begins as zeros
    write_slots: tuple[int, ...] = ()
    part_length: int = CUT
    short_cuts: ShortCuts = NO_SHORT_CUTS
    partials: Floats = field(default_factory=lambda: np.zeros((2, 1, 4), np.float32))
    write_slot: int = 0
    num_partials: int | None = None  # slots that are read; None for all

    def run(self, device: Device) -> Arrays:
        """Every buffer's contents afterwards, of the dtypes and shapes they had; "partials" is among them."""
        device.create_buffers(self._buffers())
        for name, array in self.arrays.items():
            write_bytes(device, name, 0, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        self._fill_step(StepView(device.view("step").view(np.uint32), StepLayout(self.limits)))
        arena = page_aligned((*self.partials.shape[:2], self.partials.shape[2] * 4))
        arena.view(np.float32)[:] = self.partials
        num_partials = arena.shape[1] if self.num_partials is None else self.num_partials
        device.attach_partials(arena, self.write_slot, num_partials)
        program = Program(self.rows, self.max_logit_rows, (Segment(self.ops, None),))
        device.prepare(program)
        device.submit(program, self.num_rows)
        device.finish(0)
        results = {
            name: device.view(name)[: array.nbytes].view(array.dtype).reshape(array.shape).copy()
            for name, array in self.arrays.items()
            if not name.endswith("matrix")
        }
        return {**results, "partials": arena.view(np.float32).copy()}

    def _buffers(self) -> dict[str, Buffer]:
        """All that are no matrices can be read back."""
        buffers = {
            "step": Buffer(StepLayout(self.limits).num_words * 4, Placement.UPLOAD),
            "hidden": Buffer(0),
        }
        for name, array in self.arrays.items():
            placement = Placement.DEVICE if name.endswith("matrix") else Placement.READBACK
            row_length = array.shape[1] if array.ndim == 2 else 0
            buffers[name] = Buffer(array.nbytes, placement, row_length)
        return buffers

    def _fill_step(self, step: StepView) -> None:
        positions = np.array(self.positions, np.int64)[: self.num_rows]
        parts = parts_of(positions, self.part_length, self.short_cuts)
        step.header[SHORT_CUT_WORDS:] = (self.short_cuts.half, self.short_cuts.quarter)
        step.header[:4] = (self.num_rows, len(self.logit_rows), parts.length, len(self.write_slots))
        step.slot_starts[: parts.starts.size] = parts.starts
        step.positions[: len(self.positions)] = self.positions
        step.table_starts[: len(self.table_starts)] = self.table_starts
        step.logit_rows[: len(self.logit_rows)] = self.logit_rows
        step.tables[: len(self.tables)] = self.tables
        step.window_tables[: len(self.window_tables)] = self.window_tables
        num_runs = len(self.write_slots)
        step.run_starts[: len(self.run_starts)] = self.run_starts
        step.read_slots[:num_runs] = [NO_SLOT if slot is None else slot for slot in self.read_slots]
        step.write_slots[:num_runs] = self.write_slots
        op = self.ops[0]
        if isinstance(op, Attention):
            step.header[INDIRECT_WORD : INDIRECT_WORD + 3] = attention_groups(
                self.num_rows,
                op.num_kv_heads,
                op.heads_per_kv_head,
                parts.most,
                attention_vectors(op.key_length, op.value_length),
            )


def random_floats(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def filled_matrix(matrix: Matrix, raw: Bytes) -> Bytes:
    """A buffer with these rows of a file; what lies between the planes would be NaN if it were read."""
    weight_format = FORMATS[matrix.type]
    buffer = np.full(weight_format.nbytes(matrix.rows, matrix.columns), 0xFF, np.uint8)
    for start, data in weight_format.whole(raw, matrix.columns) if buffer.size else ():
        buffer[start : start + data.size] = data
    return buffer


def random_cache(rng: np.random.Generator, kv_type: str, num_cells: int, length: int) -> npt.NDArray[Any]:
    """Random cells as coordinator/kv_types.py lays them, of one scale's size."""
    sizes = KV_TYPES[kv_type]
    count = sizes.element_plane_bytes(num_cells, length) // sizes.element_bytes
    if not sizes.scale_bytes:
        return random_floats(rng, count).astype(KV_DTYPES[kv_type])
    quants = rng.integers(-127, 128, count, np.int8).reshape(num_cells, -1)
    quants[:, length:] = 0
    scales = rng.uniform(0.001, 0.02, num_cells * sizes.num_blocks(length)).astype(np.float32)
    return np.concatenate((quants.reshape(-1).view(np.uint8), scales.view(np.uint8)))


def limits_for(**changes: Any) -> Limits:
    """Small ones."""
    small = Limits(context_length=64, num_blocks=1, block_length=32, max_rows=1, max_logit_rows=1)
    return replace(small, **changes)
