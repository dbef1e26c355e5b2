"""Runs programs in NumPy: the reference that every kernel is tested against, and `--devices numpy`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.stack_parts import WHOLE
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.device import IMPORT, Copy, FillPlaces, Place
from tplaunch.worker.numpy import (
    attention,
    exchange,
    experts,
    heads,
    latent,
    logits,
    products,
    recurrent,
    rows,
)
from tplaunch.worker.numpy.products import widened
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.exchange import ARENA
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.handlers import by_op
from tplaunch.worker.ops.latent import HeadProducts
from tplaunch.worker.programs.program import Program

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PROMPT_ROWS = 64  # see Device

RUN: dict[type, Callable[[Any, NumpyState], None]] = by_op(
    NumpyState, attention, exchange, experts, heads, latent, logits, products, recurrent, rows
)


class NumpyDevice:
    """A Device whose buffers are arrays. Weight matrices are widened to float32 when first used."""

    name = "numpy"
    kind = f"{name} {np.__version__}, {platform.machine()}"
    notes: Sequence[str] = ()  # for the user
    sharing = IMPORT  # the arena's memory itself
    groups_logits = False  # it would be this host's work, too

    def __init__(self, limits: Limits) -> None:
        self.max_buffer_bytes = WHOLE
        self.tells_prompts_apart = limits.activations == "f16"
        self.prompt_rows = PROMPT_ROWS
        self._state = NumpyState(limits)
        self._program: Program | None = None
        self._shared = self._state.partials
        self._own: Floats | None = None  # partial sums that are moved to the arena, and from there

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        for name, buffer in buffers.items():
            self._state.buffers[name] = buffer
            self._state.bytes[name] = np.zeros(buffer.nbytes, np.uint8)

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        write([self._state.bytes[buffer][offset : offset + nbytes] for offset, nbytes in places])

    def finish_loading(self) -> Sequence[str]:
        return self.notes

    def view(self, buffer: str) -> Bytes:
        return self._state.bytes[buffer]

    def attach_partials(self, arena: Bytes, write_slot: int, num_partials: int) -> None:
        self._state.partials = self._shared = arena.view(np.float32)  # [2, slots, slot elements]
        if ARENA not in self._state.buffers:  # a case brings one along
            self._state.bytes[ARENA] = arena
        self._state.write_slot, self._state.num_partials = write_slot, num_partials

    def prepare(self, program: Program) -> None:
        for op in (op for segment in program.segments for op in segment.ops):
            self._widen(op)

    def _widen(self, op: Op) -> None:
        """Widens the matrix of an operation, where it has one."""
        if not isinstance(op, MatMul | HeadProducts | ExpertMatMul):
            return
        if op.matrix.name not in self._state.matrices:
            self._state.matrices[op.matrix.name] = widened(op.matrix, self._state)

    def copy(self, copies: Sequence[Copy]) -> None:
        for buffer, source, destination, nbytes in copies:
            held = self._state.bytes[buffer]
            held[destination : destination + nbytes] = held[source : source + nbytes]
        for buffer, _, destination, _ in copies:  # when all planes of a block have been copied
            if buffer in self._state.caches:
                self._state.caches[buffer].widen_at(destination)

    def submit(self, program: Program, num_rows: int) -> None:
        assert num_rows <= program.rows, f"{num_rows} rows in a program of {program.rows}"
        self._choose_partials(program)
        self._state.begin_step(num_rows)
        self._program = program

    def _choose_partials(self, program: Program) -> None:
        """Has kernels write to the arena, or to memory that the program moves there."""
        if program.has_moves and ARENA not in self._state.buffers:
            if self._own is None:
                # Both parities are one: nobody else reads it.
                own = np.zeros(self._shared.shape[1:], np.float32)
                self._own = np.lib.stride_tricks.as_strided(own, self._shared.shape, (0, *own.strides))
            self._state.partials = self._own
        elif self._own is not None:
            self._state.partials = self._shared

    def finish(self, segment: int) -> None:
        assert self._program is not None, "no step was submitted"
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in self._program.segments[segment].ops:
                RUN[type(op)](op, self._state)

    def release(self, segment: int) -> None:
        pass

    def close(self) -> None:
        self._state.bytes.clear()
        self._state.matrices.clear()
