"""From an op to a dispatch: which kernel, its push constants, how many workgroups. Records nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatchmethod

from collectives.arena import SLICE_UNIT
from coordinator.kv_types import KV_TYPES
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
    SumSlice,
)
from worker.program import Program
from worker.quantized import scales_word
from worker.step_buffer import ATTENTION_VECTORS, StepLayout
from worker.vulkan.kernels import (
    AttentionCombinePush,
    AttentionPush,
    GatedActivationPush,
    MatMulPush,
    QuantizePush,
    RopeCachePush,
    SumNormPush,
    SumSlicePush,
)
from worker.vulkan.places import Dispatch, PartialsLayout, Place, Selects
from worker.vulkan.variants import VECTOR_COUNTS

GROUP_SIZE = 64  # invocations of a workgroup
SLICE_QUADS = 512  # float4 that a workgroup of shaders/sum_slice.slang adds up
COOPERATIVE_TILE = (2, 4)  # matrices down and across that a workgroup of shaders/matmul_coop.slang computes
MAX_GRID = 65535  # workgroups in one dimension that every device has; shaders/matmul.slang counts on it
COUNT_WORDS = {"rows": 0, "logit_rows": 1}  # where the step buffer counts these
FLOAT, QUAD = 4, 16  # bytes of float and float4
MAX_HEAD = 256  # elements of a key or value: MAX_QUADS in shaders/attend.slang


class Dispatcher:
    """Turns the ops of one program into dispatches."""

    def __init__(
        self,
        program: Program,
        places: Callable[[str], Place],
        partials: PartialsLayout,
        limits: Limits,
        max_subgroup_size: int,
        selection: Selects,
        matrix_size: int,
    ) -> None:
        self._program, self._places, self._partials = program, places, partials
        self._limits, self._layout, self._selection = limits, StepLayout(limits), selection
        self._kv_type, self._matrix_size = KV_TYPES[limits.kv_type], matrix_size
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

    def _caches(self, op: RopeCache | Attention) -> dict[str, int]:
        """Where an op's keys and values lie, and their scales."""
        key, value = self._address(op.key_cache), self._address(op.value_cache)
        num_cells = self._limits.num_blocks * self._limits.block_length * op.num_kv_heads
        return {
            "key_cache": key,
            "key_scales": key + self._kv_type.element_plane_bytes(num_cells, op.key_length),
            "value_cache": value,
            "value_scales": value + self._kv_type.element_plane_bytes(num_cells, op.value_length),
        }

    @singledispatchmethod
    def dispatch(self, op: Op) -> Dispatch:
        raise AssertionError(f"no kernel for {type(op).__name__}")

    @dispatch.register
    def _(self, op: SumNorm) -> Dispatch:
        partials = self._partials
        only_logit_rows = op.rows == "logit_rows"
        num_partials = 0 if op.parity is None else 1 if op.summed else partials.num_partials
        assert partials.slot_bytes % QUAD == 0, f"slots of {partials.slot_bytes} bytes"
        push = SumNormPush(
            step=self._address("step"),
            source=self._address(op.source),
            partials=0 if op.parity is None else partials.parity_address(op.parity),
            weight=self._address(op.weight),
            hidden=self._address("hidden"),
            output=self._address(op.output),
            num_partials=num_partials,
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
    def _(self, op: SumSlice) -> Dispatch:
        partials, row_quads = self._partials, self._stride("hidden") * FLOAT // QUAD
        push = SumSlicePush(
            step=self._address("step"),
            partials=partials.parity_address(op.parity),
            num_partials=partials.num_partials,
            slot_stride=partials.slot_bytes // QUAD,
            row_stride=row_quads,
            rank=op.rank,
        )
        units = _ceil(self._program.rows * row_quads, SLICE_UNIT * FLOAT // QUAD)
        longest = _ceil(units, partials.num_partials) * SLICE_UNIT * FLOAT // QUAD
        return Dispatch("sum_slice", push, (_ceil(longest, SLICE_QUADS), 1, 1))

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
        if op.parity is None:
            output, stride = self._address(op.output), self._stride(op.output)
        else:
            output, stride = self._partials.own_address(op.parity), self._stride("hidden")
        input_scales = 0
        if op.activations != "f32":
            input_scales = self._address(op.input) + scales_word(matrix.columns, op.activations) * FLOAT
        push = MatMulPush(
            step=self._address("step"),
            **FORMATS[matrix.type].addresses(self._address(matrix.name), matrix.rows, matrix.columns),
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
        kernel, rows, columns = self._product_kernel(op, num_rows)
        groups = _ceil(op.columns, columns // 2 if op.gated else columns)
        grid = (min(groups, MAX_GRID), _ceil(groups, MAX_GRID), _ceil(num_rows, rows))
        return Dispatch(kernel, push, grid)

    def _product_kernel(self, op: MatMul, num_rows: int) -> tuple[str, int, int]:
        """Its name, and the rows and columns that a workgroup computes."""
        weights = op.matrix.type.lower()
        if op.activations == "f16":
            rows, columns = (self._matrix_size * count for count in COOPERATIVE_TILE)
            return f"matmul_{weights}_coop{self._matrix_size}", rows, columns
        family = f"{'matvec' if num_rows == 1 else 'matmul'}_{weights}{'_dot' * (op.activations == 'q8')}"
        variant = self._selection.variant(family, op.matrix.rows)
        rows, columns = variant.tile
        return family + variant.suffix, rows, columns * self._subgroups

    @dispatch.register
    def _(self, op: RopeCache) -> Dispatch:
        push = RopeCachePush(
            step=self._address("step"),
            rope=self._address("rope"),
            qkv=self._address("qkv"),
            query=self._address("query"),
            **self._caches(op),
            **self._paging(),
            num_heads=op.num_heads,
            num_kv_heads=op.num_kv_heads,
            key_length=op.key_length,
            value_length=op.value_length,
            rope_dimension=op.rope_dimension,
            interleaved=op.interleaved,
        )
        pairs = op.num_heads * op.key_length // 2
        piece = max(2, self._kv_type.block_elements)  # of a key or a value: shaders/kv_writers.slang
        pieces = op.num_kv_heads * (_ceil(op.key_length, piece) + _ceil(op.value_length, piece))
        groups = (_ceil(pairs + pieces, GROUP_SIZE), self._program.rows, 1)
        return Dispatch(f"rope_cache_{self._limits.kv_type}", push, groups)

    @dispatch.register
    def _(self, op: Attention) -> Dispatch:
        assert max(op.key_length, op.value_length) <= MAX_HEAD, f"heads of {op.key_length} elements"
        push = AttentionPush(
            step=self._address("step"),
            query=self._address("query"),
            **self._caches(op),
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
        vectors = _vectors(self._program.rows, op.heads_per_kv_head)
        family = f"attention_{self._limits.kv_type}_{vectors}"
        return Dispatch(family + self._selection.variant(family).suffix, push, None)

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


def _vectors(rows: int, heads_per_kv_head: int) -> int:
    """How many query vectors a workgroup of attention has: for one row no more than the heads need.

    Never so few that it takes more workgroups than attention_groups in worker/step_buffer.py says.
    """
    groups = _ceil(heads_per_kv_head, ATTENTION_VECTORS)
    needed = _ceil(heads_per_kv_head, groups) if rows == 1 else ATTENTION_VECTORS
    return next(count for count in VECTOR_COUNTS if count >= needed)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
