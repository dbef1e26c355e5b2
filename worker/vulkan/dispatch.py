"""From an op to a dispatch: which kernel, its push constants, how many workgroups. Records nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Protocol

from coordinator.plan import COLUMN_TILE, Limits
from worker.formats import FORMATS
from worker.ops import (
    QUANTIZED,
    Attention,
    AttentionCombine,
    GatedActivation,
    MatMul,
    Op,
    Quantize,
    RopeCache,
    SumNorm,
)
from worker.program import Program
from worker.quantized import scales_word
from worker.step_buffer import StepLayout
from worker.vulkan.kernels import (
    AttentionCombinePush,
    AttentionPush,
    GatedActivationPush,
    MatMulPush,
    QuantizePush,
    RopeCachePush,
    SumNormPush,
)

GROUP_SIZE = 64  # invocations of a workgroup
# Rows and columns that a subgroup computes at once: multiply<...> in shaders/matmul.slang. Reading
# activations again for every column is what costs most on lavapipe.
MATVEC_TILE, MATMUL_TILE = (1, 8), (4, 8)
COOPERATIVE_TILE = (2, 4)  # matrices down and across that a workgroup of shaders/matmul_coop.slang computes
MAX_GRID = 65535  # workgroups in one dimension that every device has; shaders/matmul.slang counts on it
COUNT_WORDS = {"rows": 0, "logit_rows": 1}  # where the step buffer counts these
FLOAT, QUAD = 4, 16  # bytes of float and float4

Groups = tuple[int, int, int]


@dataclass(frozen=True)
class Dispatch:
    """`groups` is None where the step buffer says how many."""

    kernel: str
    push: Structure
    groups: Groups | None


class Place(Protocol):
    """A buffer's device address, and its row length in float32 elements."""

    @property
    def address(self) -> int: ...

    @property
    def row_length(self) -> int: ...


@dataclass(frozen=True)
class PartialsLayout:
    """Where the arena [2, num_partials, slot bytes] lies for the device."""

    address: int
    num_partials: int
    slot_bytes: int
    write_slot: int

    def parity_address(self, parity: int) -> int:
        return self.address + parity * self.num_partials * self.slot_bytes

    def own_address(self, parity: int) -> int:
        return self.parity_address(parity) + self.write_slot * self.slot_bytes


class Dispatcher:
    """Turns the ops of one program into dispatches."""

    def __init__(
        self,
        program: Program,
        places: Callable[[str], Place],
        partials: PartialsLayout,
        limits: Limits,
        max_subgroup_size: int,
        int64: bool,
        matrix_size: int,
    ) -> None:
        self._program, self._places, self._partials = program, places, partials
        self._limits, self._layout, self._int64 = limits, StepLayout(limits), int64
        self._matrix_size = matrix_size
        # A device may run narrower subgroups than its widest; then groups are left over, and end at once.
        self._subgroups = max(1, GROUP_SIZE // max_subgroup_size)
        self._sum_norm = "sum_norm_64" if max_subgroup_size <= 8 else "sum_norm"

    def _address(self, name: str) -> int:
        return self._places(name).address

    def _stride(self, name: str) -> int:
        return self._places(name).row_length

    def _num_rows(self, op: MatMul | Quantize) -> int:
        return self._program.rows if op.rows == "rows" else self._program.logit_rows

    def _paging(self) -> dict[str, int]:
        """How a kernel finds a row's place in the paged cache by the step buffer."""
        layout = self._layout
        return {
            "positions": layout.positions,
            "table_starts": layout.table_starts,
            "tables": layout.tables,
            "block_length": self._limits.block_length,
        }

    @singledispatchmethod
    def dispatch(self, op: Op) -> Dispatch:
        raise AssertionError(f"no kernel for {type(op).__name__}")

    @dispatch.register
    def _(self, op: SumNorm) -> Dispatch:
        partials = self._partials
        only_logit_rows = op.rows == "logit_rows"
        assert partials.slot_bytes % QUAD == 0, f"slots of {partials.slot_bytes} bytes"
        push = SumNormPush(
            step=self._address("step"),
            source=self._address(op.source),
            partials=0 if op.parity is None else partials.parity_address(op.parity),
            weight=self._address(op.weight),
            hidden=self._address("hidden"),
            output=self._address(op.output),
            num_partials=0 if op.parity is None else partials.num_partials,
            slot_stride=partials.slot_bytes // QUAD,
            row_stride=self._stride("hidden") * FLOAT // QUAD,
            logit_rows=self._layout.logit_rows,
            only_logit_rows=only_logit_rows,
            inverse_width=1 / op.width,
            epsilon=op.epsilon,
        )
        num_rows = self._program.logit_rows if only_logit_rows else self._program.rows
        return Dispatch(self._sum_norm, push, (num_rows, 1, 1))

    @dispatch.register
    def _(self, op: Quantize) -> Dispatch:
        output, tiles = self._address(QUANTIZED), op.columns // COLUMN_TILE
        push = QuantizePush(
            step=self._address("step"),
            input=self._address(op.input),
            output=output,
            scales=output + scales_word(op.columns, op.activations) * FLOAT,
            input_stride=self._stride(op.input) * FLOAT // QUAD,
            output_stride=self._stride(QUANTIZED) * FLOAT // QUAD,
            tiles=tiles,
            count_word=COUNT_WORDS[op.rows],
        )
        num_rows = self._num_rows(op)
        if op.activations == "f16":
            return Dispatch("quantize_f16", push, (num_rows, 1, 1))
        return Dispatch("quantize_q8", push, (_ceil(tiles, GROUP_SIZE), num_rows, 1))

    @dispatch.register
    def _(self, op: MatMul) -> Dispatch:
        matrix = op.matrix
        quants = self._address(matrix.name)
        planes = FORMATS[matrix.type].plane_offsets(matrix.rows, matrix.columns)
        if op.parity is None:
            output, stride = self._address(op.output), self._stride(op.output)
        else:
            output, stride = self._partials.own_address(op.parity), self._stride("hidden")
        input_scales = 0
        if op.activations != "f32":
            input_scales = self._address(op.input) + scales_word(matrix.columns, op.activations) * FLOAT
        push = MatMulPush(
            step=self._address("step"),
            quants=quants,
            scales=quants + planes[1] if len(planes) > 2 else 0,
            input=self._address(op.input),
            input_scales=input_scales,
            output=output + op.output_offset * FLOAT,
            bias=0 if op.bias is None else self._address(op.bias),
            input_stride=self._stride(op.input) * FLOAT // QUAD,
            output_stride=stride,
            columns=op.columns,
            tiles=matrix.columns // COLUMN_TILE,
            count_word=COUNT_WORDS[op.rows],
            has_bias=op.bias is not None,
            gated=op.gated,
        )
        num_rows = self._num_rows(op)
        kind, (rows, columns) = ("matvec", MATVEC_TILE) if num_rows == 1 else ("matmul", MATMUL_TILE)
        columns *= self._subgroups
        variant = "_dot" * (op.activations == "q8") + "_wide" * self._int64
        if op.activations == "f16":
            kind, variant = "matmul", f"_coop{self._matrix_size}"
            rows, columns = (self._matrix_size * count for count in COOPERATIVE_TILE)
        groups = _ceil(op.columns, columns // 2 if op.gated else columns)
        grid = (min(groups, MAX_GRID), _ceil(groups, MAX_GRID), _ceil(num_rows, rows))
        return Dispatch(f"{kind}_{matrix.type.lower()}{variant}", push, grid)

    @dispatch.register
    def _(self, op: RopeCache) -> Dispatch:
        push = RopeCachePush(
            step=self._address("step"),
            rope=self._address("rope"),
            qkv=self._address("qkv"),
            query=self._address("query"),
            key_cache=self._address(op.key_cache),
            value_cache=self._address(op.value_cache),
            **self._paging(),
            num_heads=op.num_heads,
            num_kv_heads=op.num_kv_heads,
            key_length=op.key_length,
            value_length=op.value_length,
            rope_dimension=op.rope_dimension,
            interleaved=op.interleaved,
        )
        elements = (op.num_heads + op.num_kv_heads) * op.key_length + op.num_kv_heads * op.value_length
        groups = (_ceil(elements // 2, GROUP_SIZE), self._program.rows, 1)
        return Dispatch(f"rope_cache_{self._limits.kv_type}", push, groups)

    @dispatch.register
    def _(self, op: Attention) -> Dispatch:
        assert max(op.key_length, op.value_length) <= 4 * GROUP_SIZE, f"heads of {op.key_length} elements"
        push = AttentionPush(
            step=self._address("step"),
            query=self._address("query"),
            key_cache=self._address(op.key_cache),
            value_cache=self._address(op.value_cache),
            sums=self._address("attention_sums"),
            scales=self._address("attention_scales"),
            **self._paging(),
            num_heads=op.num_heads,
            num_kv_heads=op.num_kv_heads,
            first_head=op.first_head,
            heads_per_kv_head=op.heads_per_kv_head,
            key_quads=op.key_length // 4,
            value_quads=op.value_length // 4,
            scale=op.scale,
        )
        kv_type = self._limits.kv_type
        variant = "_wide" if self._int64 and kv_type == "f16" else ""
        return Dispatch(f"attention_{kv_type}{variant}", push, None)

    @dispatch.register
    def _(self, op: AttentionCombine) -> Dispatch:
        push = AttentionCombinePush(
            step=self._address("step"),
            sums=self._address("attention_sums"),
            scales=self._address("attention_scales"),
            output=self._address("attended") + op.output_offset * FLOAT,
            num_heads=op.num_heads,
            value_quads=op.value_length // 4,
            output_stride=self._stride("attended"),
        )
        columns = op.num_heads * op.value_length // 4
        return Dispatch("attention_combine", push, (_ceil(columns, GROUP_SIZE), self._program.rows, 1))

    @dispatch.register
    def _(self, op: GatedActivation) -> Dispatch:
        push = GatedActivationPush(
            step=self._address("step"),
            gate_up=self._address("gate_up"),
            output=self._address("activated") + op.output_offset * FLOAT,
            columns=op.columns,
            output_stride=self._stride("activated"),
        )
        groups = (_ceil(op.columns, GROUP_SIZE), self._program.rows, 1)
        return Dispatch("gated_activation", push, groups)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
