"""Trials that time a kernel family: one op of a model, on buffers and made-up values of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.cuts import CHUNK, parts_of
from tplaunch.worker.buffers.step import (
    INDIRECT_WORD,
    StepLayout,
    StepView,
    attention_groups,
    attention_vectors,
)
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize, row_words
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.measuring.expert_trials import expert_product, write_pairs
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.variants import measurement_name
from tplaunch.worker.weights.random_weights import random_blocks

KEYS = 512  # that attention goes over
ROWS = (1, 4, 2)  # of programs whose kernels differ; where they do not, the first counts
MAX_RANDOM_BYTE = 60  # numbers made of bytes below it are finite in every format

# Families and matrix rows among whose variants an op would choose, in a program of limits.max_rows rows.
Asks: TypeAlias = Callable[[Op, Limits], list[tuple[str, int]]]


@dataclass(frozen=True)
class Size:
    """How large trials are: what a matrix is cut to, and how many bytes its copies have that take turns."""

    max_weights: int
    rotated_bytes: int = 0
    prompt_rows: int = 64


@dataclass(frozen=True)
class Trial:
    """One op of `rows` rows. Its results can be read back.

    `ops` are the op itself and the same ones on further copies of its matrix.
    """

    name: str  # of the measurement
    family: str
    op: Op
    rows: int
    limits: Limits
    buffers: dict[str, Buffer]
    copies: int = 1
    part: int = CHUNK  # keys that a workgroup walks

    @property
    def ops(self) -> tuple[Op, ...]:
        op = self.op
        if not isinstance(op, MatMul | ExpertMatMul):
            return (op,)
        copies = (dataclasses.replace(op.matrix, name=name) for name in _names(op.matrix.name, self.copies))
        return tuple(dataclasses.replace(op, matrix=copy) for copy in copies)

    def fill(self, memory: Memory) -> None:
        """Fills the buffers with the same values every time.

        A wrong result must show, so none is zero or one everywhere.
        """
        random = np.random.Generator(np.random.PCG64(0))
        product = self.op if isinstance(self.op, MatMul | ExpertMatMul) else None
        if product is not None:
            _write_matrices(memory, product.matrix, _names(product.matrix.name, self.copies))
        for name, buffer in self.buffers.items():
            if buffer.placement is Placement.WEIGHTS:
                continue
            if name == "input" and product is not None and product.activations == "f16":
                memory.write(name, 0, _rows_of_float16(random, self.rows, product.matrix.columns))
            elif buffer.row_length:
                values = random.standard_normal(buffer.nbytes // 4, np.float32)
                memory.write(name, 0, values.view(np.uint8))
            elif name != "step":
                memory.write(name, 0, random.integers(0, MAX_RANDOM_BYTE, buffer.nbytes, np.uint8))
        if isinstance(self.op, ExpertMatMul):
            write_pairs(memory, self.op, self.rows)
        step = memory["step"].mapped
        assert step is not None, "the host writes the step buffer"
        self._fill_step(StepView(step.view(np.uint32), StepLayout(self.limits)))

    def _fill_step(self, step: StepView) -> None:
        positions = np.full(self.rows, self.limits.context_length - 1)
        parts = parts_of(positions, self.part)
        step.header[:4] = (self.rows, 0, parts.length, 0)
        step.positions[: self.rows] = positions
        step.slot_starts[: self.rows] = parts.starts
        for tables in (step.tables, step.window_tables):
            tables[:] = np.arange(len(tables))
        if isinstance(self.op, Attention):
            op = self.op
            vectors = attention_vectors(op.key_length, op.value_length)
            groups = attention_groups(self.rows, op.num_kv_heads, op.heads_per_kv_head, parts.most, vectors)
            step.header[INDIRECT_WORD : INDIRECT_WORD + 3] = groups

    def take_results(self, memory: Memory) -> list[bytes]:
        """Returns the bytes that the op has written, and clears them: a run that writes nothing shows."""
        taken = []
        for name in sorted(self.op.writes):
            mapped = memory[name].mapped
            assert mapped is not None, f"{name!r} can't be read back"
            taken.append(mapped.tobytes())
            mapped[:] = 0
        return taken


def trials(program: Program, kv_type: str, size: Size, asks: Asks) -> list[Trial]:
    """One for each measurement that a program's model needs."""
    found: dict[str, Trial] = {}
    sizes: dict[str, int] = {}
    for op in (_product_of(op) for segment in program.segments for op in segment.ops):
        for asked, rows in _asked(op, size.prompt_rows):
            limits = limits_of(rows, kv_type)
            for family, matrix_rows in asks(asked, limits):
                name, weights = measurement_name(family, matrix_rows), num_weights_of(op)
                if weights > sizes.get(name, 0):
                    sizes[name] = weights
                    found[name] = make_trial(name, family, asked, limits, size)
    return list(found.values())


def _asked(op: Op, prompt_rows: int) -> list[tuple[Op, int]]:
    """An op and how many rows it is timed with, as one of generated rows and as one of prompts.

    Where it takes integers, floats are timed, too: they may be as quick.
    """
    asked: list[tuple[Op, int]] = [(op, rows) for rows in ROWS]
    if isinstance(op, MatMul):
        asked.append((dataclasses.replace(op, of_prompts=True), prompt_rows))
        if op.activations == "q8":
            asked += [(dataclasses.replace(op, activations="f32"), rows) for rows in ROWS]
    return asked


def _product_of(op: Op) -> Op:
    """Products with experts choose as others do, and are not measured themselves."""
    if isinstance(op, ExpertMatMul):
        return MatMul(op.matrix, None, op.input, op.output, 0, "rows", activations=op.activations)
    return op


def num_weights_of(op: Op) -> int:
    """Returns the number by which ops are chosen: the largest matrix, any attention."""
    return op.matrix.rows * op.matrix.columns if isinstance(op, MatMul | ExpertMatMul) else 1


def make_trial(name: str, family: str, op: Op, limits: Limits, size: Size, part: int = CHUNK) -> Trial:
    """Makes the trial of an op, whose rows are limits.max_rows; one of experts is small enough already.

    part: keys that a workgroup walks.
    """
    step = {"step": Buffer(StepLayout(limits).num_words * 4, Placement.UPLOAD)}
    if isinstance(op, MatMul | ExpertMatMul):
        product: MatMul | ExpertMatMul
        if isinstance(op, MatMul):
            product, buffers = _product(op, limits.max_rows, size.max_weights)
        else:
            product, buffers = expert_product(op, limits.max_rows)
        matrix = buffers.pop(product.matrix.name)
        copies = max(1, -(-size.rotated_bytes // matrix.nbytes))
        buffers |= dict.fromkeys(_names(product.matrix.name, copies), matrix)
        return Trial(name, family, product, limits.max_rows, limits, step | buffers, copies)
    assert isinstance(op, Attention), f"no way to time {type(op).__name__}"
    attention, buffers = _attention(op, limits, -(-limits.context_length // part))
    return Trial(name, family, attention, limits.max_rows, limits, step | buffers, part=part)


def limits_of(rows: int, kv_type: str, keys: int = KEYS) -> Limits:
    return Limits(
        context_length=keys,
        num_blocks=keys // 32,
        num_window_blocks=keys // 32,
        block_length=32,
        max_rows=rows,
        max_logit_rows=1,
        kv_type=kv_type,
    )


def _product(op: MatMul, rows: int, max_weights: int) -> tuple[MatMul, dict[str, Buffer]]:
    """Makes a product with a matrix as wide, and with as many rows as there may be weights."""
    matrix_rows = min(op.matrix.rows, max(1, max_weights // op.matrix.columns))
    cut = dataclasses.replace(op.matrix, name="matrix", rows=matrix_rows)
    length = cut.columns if op.activations == "f32" else row_words(cut.columns, op.activations)
    buffers = {
        "matrix": Buffer(FORMATS[cut.type].nbytes(cut.rows, cut.columns), Placement.WEIGHTS),
        "input": Buffer(rows * length * 4, row_length=length),  # any bits are good for quantized ones
        "output": Buffer(rows * cut.rows * 4, Placement.READBACK, cut.rows),
    }
    kind = {"activations": op.activations, "of_prompts": op.of_prompts}
    return MatMul(cut, None, "input", "output", 0, "rows", **kind), buffers  # type: ignore[arg-type]


def _rows_of_float16(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Makes rows that Quantize could have written: any bits would not be numbers."""
    words = np.zeros((rows, row_words(columns, "f16")), np.uint32)
    made = quantize(random.standard_normal((rows, columns), np.float32), "f16")
    words[:, : made.shape[1]] = made
    return words.view(np.uint8).reshape(-1)


def _attention(op: Attention, limits: Limits, num_parts: int) -> tuple[Attention, dict[str, Buffer]]:
    positions = limits.num_blocks * limits.block_length * op.num_kv_heads
    slots, query_length = limits.max_rows * num_parts * op.num_heads, op.num_heads * op.key_length
    buffers = {
        "query": Buffer(limits.max_rows * query_length * 4, row_length=query_length),
        "keys": Buffer(positions * op.key_length * 4),  # room for any type
        "values": Buffer(positions * op.value_length * 4),
        "attention_sums": Buffer(slots * op.value_length * 4, Placement.READBACK),
        "attention_scales": Buffer(slots * 2 * 4, Placement.READBACK),
    }
    value_cache = "keys" if op.value_in_key else "values"
    return dataclasses.replace(op, key_cache="keys", value_cache=value_cache), buffers


def _names(name: str, copies: int) -> list[str]:
    return [name, *(f"{name}.{number}" for number in range(1, copies))]


def _write_matrices(memory: Memory, matrix: Matrix, names: list[str]) -> None:
    weight_type = WEIGHT_TYPES[matrix.type]
    row_bytes = weight_type.row_bytes(matrix.columns)
    raw = random_blocks(weight_type, matrix.rows * row_bytes // weight_type.block_bytes)
    for start, data in FORMATS[matrix.type].whole(raw.reshape(matrix.rows, row_bytes), matrix.columns):
        for name in names:
            memory.write(name, start, data)
