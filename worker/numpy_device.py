"""Runs programs in NumPy: the reference that every kernel is tested against, and `--devices cpu`."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from collectives.arena import rank_slice
from coordinator.plan import Limits
from worker import quantized
from worker.buffers import Buffer
from worker.device import FillPlaces, Place
from worker.formats import FORMATS
from worker.numpy_attention import attend, combined
from worker.numpy_cache import NumpyCache
from worker.ops import (
    QUANTIZED,
    Attention,
    AttentionCombine,
    GatedActivation,
    MatMul,
    Matrix,
    Op,
    Quantize,
    RopeCache,
    RowSet,
    SumNorm,
    SumSlice,
)
from worker.program import Program
from worker.step_buffer import StepLayout, StepView

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class NumpyDevice:
    """A Device whose buffers are arrays. Weight matrices are widened to float32 when first used."""

    name = "cpu (NumPy)"
    imports_partials = True  # the arena's memory itself

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes: dict[str, Bytes] = {}
        self._buffers: dict[str, Buffer] = {}
        self._matrices: dict[str, Floats] = {}
        self._caches: dict[str, NumpyCache] = {}
        self._partials: Floats = np.zeros((2, 0, 0), np.float32)
        self._write_slot = 0
        self._program: Program | None = None

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        for name, buffer in buffers.items():
            self._buffers[name] = buffer
            self._bytes[name] = np.zeros(buffer.nbytes, np.uint8)

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        write([self._bytes[buffer][offset : offset + nbytes] for offset, nbytes in places])

    def finish_loading(self) -> None:
        pass

    def view(self, buffer: str) -> Bytes:
        return self._bytes[buffer]

    def attach_partials(self, arena: Bytes, write_slot: int) -> None:
        self._partials = arena.view(np.float32)  # [2, num_partials, slot elements]
        self._write_slot = write_slot

    def prepare(self, program: Program) -> None:
        for op in (op for segment in program.segments for op in segment.ops):
            if isinstance(op, MatMul) and op.matrix.name not in self._matrices:
                self._matrices[op.matrix.name] = self._dequantized(op.matrix)

    def submit(self, program: Program, num_rows: int) -> None:
        self._step = StepView(self._bytes["step"].view(np.uint32), StepLayout(self._limits))
        assert num_rows == self._step.num_rows <= program.rows, (
            f"{num_rows} rows in a program of {program.rows}"
        )
        self._runs = _runs(self._step.table_starts[:num_rows])
        self._program = program

    def finish(self, segment: int) -> None:
        assert self._program is not None, "no step was submitted"
        for op in self._program.segments[segment].ops:
            self._run(op)

    def release(self, segment: int) -> None:
        pass

    def close(self) -> None:
        self._bytes.clear()
        self._matrices.clear()

    # Below: one method per op. Matrices are [rows of the step, row length] float32.

    def _run(self, op: Op) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if isinstance(op, SumNorm):
                self._sum_norm(op)
            elif isinstance(op, SumSlice):
                self._sum_slice(op)
            elif isinstance(op, Quantize):
                self._quantize(op)
            elif isinstance(op, MatMul):
                self._matmul(op)
            elif isinstance(op, RopeCache):
                self._rope_cache(op)
            elif isinstance(op, Attention):
                self._attention(op)
            elif isinstance(op, AttentionCombine):
                self._attention_combine(op)
            else:
                self._gated_activation(op)

    def _dequantized(self, matrix: Matrix) -> Floats:
        """Widens a matrix once and drops its planes, so that it is held once."""
        weight_format = FORMATS[matrix.type]
        offsets = weight_format.plane_offsets(matrix.rows, matrix.columns)
        planes = [self._bytes[matrix.name][start:stop] for start, stop in itertools.pairwise(offsets)]
        widened = weight_format.dequantize(planes, matrix.rows, matrix.columns)
        del self._bytes[matrix.name]
        # Of a tall matrix by columns: for one row OpenBLAS then adds scaled columns, which is faster than
        # products of rows.
        return np.asfortranarray(widened) if matrix.rows >= matrix.columns else widened

    def _vector(self, name: str, length: int) -> Floats:
        return self._bytes[name].view(np.float32)[:length]

    def _num_rows(self, rows: RowSet = "rows") -> int:
        return self._step.num_rows if rows == "rows" else self._step.num_logit_rows

    def _rows(self, buffer: str, rows: RowSet = "rows") -> Floats:
        length, num_rows = self._buffers[buffer].row_length, self._num_rows(rows)
        return self._bytes[buffer].view(np.float32)[: num_rows * length].reshape(num_rows, length)

    def _partial(self, parity: int, slot: int) -> Floats:
        """One slot as [rows, row length of hidden]."""
        length = self._buffers["hidden"].row_length
        num_rows = self._num_rows()
        return self._partials[parity, slot, : num_rows * length].reshape(num_rows, length)

    def _sum_norm(self, op: SumNorm) -> None:
        hidden = self._rows(op.source)[:, : op.width]
        if op.parity is not None:
            num_partials = 1 if op.summed else self._partials.shape[1]
            partials = [self._partial(op.parity, slot)[:, : op.width] for slot in range(num_partials)]
            hidden = hidden + _added_up(partials)
        if op.rows == "logit_rows":
            hidden = hidden[self._step.logit_rows[: self._step.num_logit_rows]]
        else:
            self._rows("hidden")[:, : op.width] = hidden
        mean_square = np.einsum("rc,rc->r", hidden, hidden)[:, None] / np.float32(op.width)
        normed = hidden / np.sqrt(mean_square + np.float32(op.epsilon))
        np.multiply(
            normed, self._vector(op.weight, op.width), out=self._rows(op.output, op.rows)[:, : op.width]
        )

    def _sum_slice(self, op: SumSlice) -> None:
        num_partials, count = self._partials.shape[1], self._partial(op.parity, 0).size
        own = rank_slice(op.rank, num_partials, count)
        partials = self._partials[op.parity, :, own]
        partials[0] = _added_up(partials)

    def _quantize(self, op: Quantize) -> None:
        words = quantized.quantize(self._rows(op.input, op.rows)[:, : op.columns], op.activations)
        self._rows(QUANTIZED, op.rows).view(np.uint32)[:, : words.shape[1]] = words

    def _matmul(self, op: MatMul) -> None:
        matrix = self._matrices[op.matrix.name]
        rows = self._rows(op.input, op.rows)
        if op.activations != "f32":
            rows = quantized.dequantize(rows.view(np.uint32), op.matrix.columns, op.activations)
        rows = rows[:, : op.matrix.columns]
        product = rows @ matrix.T if rows.shape[0] > 1 else (matrix @ rows[0])[None]
        if op.bias is not None:
            product += self._vector(op.bias, op.matrix.rows)
        if op.gated:
            product = _gated(product)
        if op.parity is not None:
            output = self._partial(op.parity, self._write_slot)
        else:
            output = self._rows(op.output, op.rows)
        output[:, op.output_offset : op.output_offset + op.columns] = product

    def _cache(self, name: str, op: RopeCache | Attention, length: int) -> NumpyCache:
        """One layer's keys or values."""
        if name not in self._caches:
            self._caches[name] = NumpyCache(self._bytes[name], self._limits, op.num_kv_heads, length)
        return self._caches[name]

    def _blocks(self, row: int, num_positions: int) -> npt.NDArray[np.uint32]:
        start = int(self._step.table_starts[row])
        return self._step.tables[start : start - (-num_positions // self._limits.block_length)]

    def _rope_cache(self, op: RopeCache) -> None:
        num_rows = self._num_rows()
        qkv = self._rows("qkv")
        num_turned = op.num_heads + op.num_kv_heads
        turned, value = np.split(qkv, [num_turned * op.key_length], axis=1)
        turned = self._turned(turned.reshape(num_rows, num_turned, op.key_length), op)
        self._rows("query")[:] = turned[:, : op.num_heads].reshape(num_rows, -1)
        turned_key = turned[:, op.num_heads :]
        value = value.reshape(num_rows, op.num_kv_heads, op.value_length)
        keys = self._cache(op.key_cache, op, op.key_length)
        values = self._cache(op.value_cache, op, op.value_length)
        for row in range(num_rows):
            position = int(self._step.positions[row])
            block, place = self._blocks(row, position + 1)[-1], position % self._limits.block_length
            keys.write(block, place, turned_key[row])
            values.write(block, place, value[row])

    def _turned(self, heads: Floats, op: RopeCache) -> Floats:
        """heads [rows, heads, key_length]; the rope table holds cosine and sine by turns."""
        table = self._rows("rope")[:, None, : op.rope_dimension]
        cosine, sine = table[..., 0::2], table[..., 1::2]
        half = op.rope_dimension // 2
        first = slice(0, op.rope_dimension, 2) if op.interleaved else slice(0, half)
        second = slice(1, op.rope_dimension, 2) if op.interleaved else slice(half, op.rope_dimension)
        turned = heads.copy()
        turned[..., first] = heads[..., first] * cosine - heads[..., second] * sine
        turned[..., second] = heads[..., first] * sine + heads[..., second] * cosine
        return turned

    def _slots(self, op: Attention | AttentionCombine) -> tuple[Floats, Floats]:
        """Sums [rows, heads, chunks, value_length] and their (maximum, sum of weights)."""
        shape = (self._num_rows(), op.num_heads, self._step.num_chunks)
        count = math.prod(shape)
        sums = self._bytes["attention_sums"].view(np.float32)[: count * op.value_length]
        scales = self._bytes["attention_scales"].view(np.float32)[: count * 2]
        return sums.reshape(*shape, op.value_length), scales.reshape(*shape, 2)

    def _attention(self, op: Attention) -> None:
        query = self._rows("query").reshape(self._num_rows(), op.num_heads, op.key_length)
        keys = self._cache(op.key_cache, op, op.key_length)
        values = self._cache(op.value_cache, op, op.value_length)
        sums, scales = self._slots(op)
        for first, stop in self._runs:
            num_keys = int(self._step.positions[first:stop].max()) + 1
            blocks = self._blocks(first, num_keys)
            run_keys = keys.read(blocks, num_keys)  # [kv_heads, keys, key_length]
            run_values = values.read(blocks, num_keys)
            for row in range(first, stop):
                num_keys = int(self._step.positions[row]) + 1
                row_keys, row_values = run_keys[:, :num_keys], run_values[:, :num_keys]
                length = self._step.chunk_length
                attend(op, query[row], row_keys, row_values, length, sums[row], scales[row])

    def _attention_combine(self, op: AttentionCombine) -> None:
        attended = combined(*self._slots(op))
        span = slice(op.output_offset, op.output_offset + op.num_heads * op.value_length)
        self._rows("attended")[:, span] = attended.reshape(self._num_rows(), -1)

    def _gated_activation(self, op: GatedActivation) -> None:
        activated = _gated(self._rows("gate_up"))
        self._rows("activated")[:, op.output_offset : op.output_offset + op.columns] = activated


def _runs(table_starts: npt.NDArray[np.uint32]) -> list[tuple[int, int]]:
    """Neighbouring rows of one sequence, so that its keys are gathered and widened once for them."""
    edges = [0, *(np.flatnonzero(np.diff(table_starts)) + 1).tolist(), table_starts.size]
    return list(itertools.pairwise(edges))


def _gated(gate_up: Floats) -> Floats:
    """[rows, gates and as many ups] -> silu(gate) * up."""
    gate, up = np.split(gate_up, 2, axis=1)
    activated: Floats = gate / (1 + np.exp(-gate)) * up
    return activated


def _added_up(partials: Sequence[Floats] | Floats) -> Floats:
    """From left to right."""
    return functools.reduce(np.add, partials)
