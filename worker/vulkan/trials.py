"""What is run to time a kernel family: one op of a model, on buffers and made-up values of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.model import WEIGHT_TYPES
from coordinator.plan import Limits
from worker.buffers import Buffer, Placement
from worker.formats import FORMATS
from worker.ops import Attention, MatMul, Matrix, Op
from worker.program import Program
from worker.random_weights import random_blocks
from worker.step_buffer import INDIRECT_WORD, StepLayout, StepView, attention_groups
from worker.vulkan.memory import Memory
from worker.vulkan.variants import measurement_name, product_family

KEYS = 512  # that attention goes over
MATMUL_ROWS = 8  # enough to fill every tile
MAX_RANDOM_BYTE = 60  # numbers made of bytes below it are finite in every format

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Trial:
    """One op of `rows` rows. Its results can be read back."""

    name: str  # of the measurement
    family: str
    op: Op
    rows: int
    limits: Limits
    buffers: dict[str, Buffer]

    def fill(self, memory: Memory) -> None:
        """With the same values every time. A wrong result must show, so none is zero or one everywhere."""
        random = np.random.Generator(np.random.PCG64(0))
        for name, buffer in self.buffers.items():
            if isinstance(self.op, MatMul) and name == self.op.matrix.name:
                _write_matrix(memory, self.op.matrix)
            elif buffer.row_length:
                values = random.standard_normal(buffer.nbytes // 4, np.float32)
                memory.write(name, 0, values.view(np.uint8))
            elif name != "step":
                memory.write(name, 0, random.integers(0, MAX_RANDOM_BYTE, buffer.nbytes, np.uint8))
        step = memory["step"].mapped
        assert step is not None, "the host writes the step buffer"
        self._fill_step(StepView(step.view(np.uint32), StepLayout(self.limits)))

    def _fill_step(self, step: StepView) -> None:
        step.header[:4] = (self.rows, 0, KEYS, 1)
        step.positions[: self.rows] = KEYS - 1
        step.tables[:] = np.arange(len(step.tables))
        if isinstance(self.op, Attention):
            groups = attention_groups(self.rows, self.op.num_kv_heads, self.op.heads_per_kv_head, 1)
            step.header[INDIRECT_WORD : INDIRECT_WORD + 3] = groups

    def take_results(self, memory: Memory) -> list[bytes]:
        """What the op has written; it is not there any more for one that writes nothing."""
        taken = []
        for name in sorted(self.op.writes):
            mapped = memory[name].mapped
            assert mapped is not None, f"{name!r} can't be read back"
            taken.append(mapped.tobytes())
            mapped[:] = 0
        return taken


def trials(program: Program, kv_type: str, max_weights: int) -> list[Trial]:
    """Of all kernel families that a program's model needs. Matrices are cut to max_weights."""
    found: dict[str, Trial] = {}
    largest: dict[str, int] = {}
    for op in (op for segment in program.segments for op in segment.ops):
        if isinstance(op, MatMul) and op.matrix.rows and op.matrix.columns:
            for rows in (1, MATMUL_ROWS):
                trial = _product(op.matrix, rows, max_weights)
                if op.matrix.rows * op.matrix.columns > largest.get(trial.name, 0):
                    largest[trial.name] = op.matrix.rows * op.matrix.columns
                    found[trial.name] = trial
        elif isinstance(op, Attention):
            found.setdefault(f"attention_{kv_type}", _attention(op, kv_type))
    return list(found.values())


def _limits(rows: int, kv_type: str = "f16") -> Limits:
    return Limits(
        context_length=KEYS,
        num_blocks=KEYS // 32,
        block_length=32,
        max_rows=rows,
        max_logit_rows=1,
        kv_type=kv_type,
    )


def _buffers(limits: Limits, buffers: dict[str, Buffer]) -> dict[str, Buffer]:
    return {"step": Buffer(StepLayout(limits).num_words * 4, Placement.UPLOAD), **buffers}


def _product(matrix: Matrix, rows: int, max_weights: int) -> Trial:
    """With a matrix of the same width, and of as many rows as there may be weights."""
    family = product_family(matrix.type, rows)
    matrix_rows = min(matrix.rows, max(1, max_weights // matrix.columns))
    cut = dataclasses.replace(matrix, name="matrix", rows=matrix_rows)
    limits = _limits(rows)
    buffers = {
        "matrix": Buffer(FORMATS[cut.type].nbytes(cut.rows, cut.columns), Placement.WEIGHTS),
        "input": Buffer(rows * cut.columns * 4, row_length=cut.columns),
        "output": Buffer(rows * cut.rows * 4, Placement.READBACK, cut.rows),
    }
    op = MatMul(cut, None, "input", "output", 0, "rows")
    return Trial(measurement_name(family, matrix.rows), family, op, rows, limits, _buffers(limits, buffers))


def _attention(op: Attention, kv_type: str) -> Trial:
    """One row: where decode spends its time."""
    limits = _limits(1, kv_type)
    positions = limits.num_blocks * limits.block_length * op.num_kv_heads
    slots = op.num_heads
    buffers = {
        "query": Buffer(op.num_heads * op.key_length * 4, row_length=op.num_heads * op.key_length),
        "keys": Buffer(positions * op.key_length * 4),  # room for any type
        "values": Buffer(positions * op.value_length * 4),
        "attention_sums": Buffer(slots * op.value_length * 4, Placement.READBACK),
        "attention_scales": Buffer(slots * 2 * 4, Placement.READBACK),
    }
    family = f"attention_{kv_type}"
    scratch = dataclasses.replace(op, key_cache="keys", value_cache="values")
    return Trial(family, family, scratch, 1, limits, _buffers(limits, buffers))


def _write_matrix(memory: Memory, matrix: Matrix) -> None:
    weight_type, weight_format = WEIGHT_TYPES[matrix.type], FORMATS[matrix.type]
    row_bytes = weight_type.row_bytes(matrix.columns)
    raw = random_blocks(weight_type, matrix.rows * row_bytes // weight_type.block_bytes)
    planes = weight_format.repack(raw.reshape(matrix.rows, row_bytes), matrix.columns)
    for plane, start in zip(planes, weight_format.plane_offsets(matrix.rows, matrix.columns), strict=False):
        memory.write(matrix.name, start, plane)
