"""Runs programs on processors by compiled kernels; NumPy does what is rare."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.cpu import attention, expert_products, experts, heads, latent, products, recurrent, rows
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.memory import in_one_piece
from tplaunch.worker.cpu.placement import misplaced
from tplaunch.worker.cpu.recorder import HostPart, KernelPart, Recorder
from tplaunch.worker.cpu.target import host
from tplaunch.worker.cpu.team import Team
from tplaunch.worker.numpy.device import RUN, Bytes, NumpyDevice
from tplaunch.worker.ops.attention import (
    Attention,
    AttentionCombine,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
)
from tplaunch.worker.ops.common import Activate, MatMul, Quantize, SumNorm, SumSlice
from tplaunch.worker.ops.experts import ExpertMatMul, ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes
from tplaunch.worker.ops.latent import CopyHeads, HeadProducts
from tplaunch.worker.ops.recurrent import Convolution, GatedNorm, Recurrence, SquareSums, UnitNorm
from tplaunch.worker.programs.program import Program, Segment

# The operations that have kernels. NumPy runs the others.
RECORD: dict[type, Callable[[Any, Recorder], None]] = {
    SumNorm: rows.sum_norm,
    SumSlice: rows.sum_slice,
    Quantize: products.quantize,
    MatMul: products.matmul,
    ExpertMatMul: expert_products.expert_matmul,
    HeadProducts: latent.head_products,
    Activate: rows.activate,
    Route: experts.route,
    SharedRoutes: experts.shared_routes,
    ExpertTiles: experts.expert_tiles,
    ExpertSum: experts.expert_sum,
    RowGate: experts.row_gate,
    Convolution: recurrent.convolution,
    UnitNorm: recurrent.unit_norm,
    Recurrence: recurrent.recurrence,
    SquareSums: recurrent.square_sums,
    GatedNorm: recurrent.gated_norm,
    Attention: attention.attention,
    AttentionCombine: attention.combine,
    Clamp: heads.clamp,
    CopyHeads: heads.copy_heads,
    HeadNorm: heads.head_norm,
    HeadSums: heads.head_sums,
    RopeCache: heads.rope_cache,
    Rotate: heads.rotate,
}


class CpuDevice(NumpyDevice):
    """A Device whose weights stay in the file's types."""

    name = "cpu"

    def __init__(
        self, limits: Limits, kernels: Kernels, num_threads: int = 1, timeout_seconds: float = 60.0
    ) -> None:
        super().__init__(limits)
        self.kind = f"{self.name}, {platform.machine()}, {host().processor}"
        self._kernels = kernels
        self._team = Team(kernels, num_threads, timeout_seconds)
        self._recorder = Recorder(self._state, kernels, self._team)
        self._recorded: dict[int, list[list[KernelPart | HostPart]]] = {}  # segments, by the program's id
        self._programs: list[Program] = []  # kept, or another one might have the same id
        self._without_host: set[int] = set()  # programs that are nothing but kernels, by their ids

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        weights = {name: found for name, found in buffers.items() if found.placement is Placement.WEIGHTS}
        self._state.buffers |= weights
        self._state.bytes |= in_one_piece({name: found.nbytes for name, found in weights.items()})
        super().create_buffers({name: found for name, found in buffers.items() if name not in weights})

    def attach_partials(self, arena: Bytes, write_slot: int, num_partials: int) -> None:
        assert not self._recorded, "a recorded program has the arena's address"
        super().attach_partials(arena, write_slot, num_partials)

    def compile_kernels(self, programs: Sequence[Program], tell: Callable[[str], None]) -> Sequence[str]:
        started, names, done = time.monotonic(), set[str](), list[str]()
        for program in programs:
            self._choose_partials(program)
            for segment in program.segments:
                self._record(segment)
                names |= self._recorder.names()
        if not (missing := self._kernels.missing(names)):
            return ()
        all_of_them = f"{len(missing)} kernel{'s' if len(missing) > 1 else ''}"
        tell(f"compiling {all_of_them}")

        def count(name: str) -> None:
            done.append(name)
            tell(f"compiled {name}, {len(done)} of {all_of_them}")

        self._kernels.compile(missing, count)
        taken = f"compiled {all_of_them} for this processor in {time.monotonic() - started:.0f} s"
        fault = self._kernels.fault
        return (
            f"{taken}, and again at the next start: {fault}" if fault else f"{taken}, for later starts, too",
        )

    def prepare(self, program: Program) -> None:
        if id(program) in self._recorded:
            return
        self._choose_partials(program)
        segments = []
        for segment in program.segments:
            self._record(segment)
            segments.append(self._recorder.parts())
        self._recorded[id(program)] = segments
        self._programs.append(program)
        if all(isinstance(part, KernelPart) for parts in segments for part in parts):
            self._without_host.add(id(program))

    def _record(self, segment: Segment) -> None:
        for op in segment.ops:
            if (record := RECORD.get(type(op))) is not None:
                record(op, self._recorder)
            else:
                self._recorder.host(partial(RUN[type(op)], op))

    def submit(self, program: Program, num_rows: int) -> None:
        if id(program) not in self._without_host:
            super().submit(program, num_rows)
            return
        # Kernels read the step for themselves.
        assert num_rows <= program.rows, f"{num_rows} rows in a program of {program.rows}"
        self._choose_partials(program)
        self._program = program

    def finish(self, segment: int) -> None:
        assert self._program is not None, "no step was submitted"
        for part in self._recorded[id(self._program)][segment]:
            if isinstance(part, KernelPart):
                self._team.run(part.address)
                continue
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                part(self._state)

    def finish_loading(self) -> Sequence[str]:
        return [*super().finish_loading(), *filter(None, [misplaced()])]

    def close(self) -> None:
        self._team.close()
        super().close()
