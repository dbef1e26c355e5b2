"""Makes checks of the ops of programs: each op is made small, and each small one checked once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tplaunch import __version__
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.checking import (
    attention,
    exchange,
    experts,
    heads,
    logits,
    products,
    recurrent,
    rows,
)
from tplaunch.worker.checking.case import limits_for
from tplaunch.worker.checking.check import Check
from tplaunch.worker.ops.attention import (
    Attention,
    AttentionCombine,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
)
from tplaunch.worker.ops.common import Activate, GatherNorm, MatMul, Op, Quantize, SumNorm, SumSlice
from tplaunch.worker.ops.exchange import Gather, MovePartials
from tplaunch.worker.ops.experts import ExpertMatMul, ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes
from tplaunch.worker.ops.latent import CopyHeads, HeadProducts
from tplaunch.worker.ops.logits import LogitGroups
from tplaunch.worker.ops.recurrent import Convolution, GatedNorm, Recurrence, SquareSums, UnitNorm
from tplaunch.worker.programs.program import Program

VERSION = 3  # of all checks: what an older one has found out does not count
ROWS = rows.ROWS  # of a program whose ops have kernels for several rows

# An op -> the same op with shapes of the checks' own. Ops that become equal are checked once.
SMALL: dict[type, Callable[[Any], Any]] = {
    SumNorm: rows.sum_norm,
    SumSlice: rows.sum_slice,
    Gather: exchange.gather,
    GatherNorm: exchange.gather_norm,
    MovePartials: exchange.move,
    Quantize: rows.quantize,
    MatMul: products.matmul,
    Clamp: heads.clamp,
    HeadSums: heads.head_sums,
    HeadNorm: heads.head_norm,
    Rotate: heads.rotate,
    RopeCache: heads.rope_cache,
    Attention: attention.attention,
    AttentionCombine: attention.attention_combine,
    HeadProducts: products.head_products,
    CopyHeads: heads.copy_heads,
    Activate: rows.activate,
    Convolution: recurrent.convolution,
    UnitNorm: recurrent.unit_norm,
    Recurrence: recurrent.recurrence,
    SquareSums: recurrent.square_sums,
    GatedNorm: recurrent.gated_norm,
    Route: experts.route,
    SharedRoutes: experts.shared_routes,
    ExpertTiles: experts.expert_tiles,
    ExpertMatMul: experts.expert_matmul,
    ExpertSum: experts.expert_sum,
    RowGate: experts.row_gate,
    LogitGroups: logits.logit_groups,
}
# A small op, the KV cache's type and the rows of its program -> its check.
CHECKS: dict[type, Callable[[Any, str, int], Check]] = {
    MatMul: lambda op, kv_type, rows: products.check_matmul(op, rows),
    Attention: attention.check_attention,
    RopeCache: lambda op, kv_type, rows: heads.check_rope_cache(op, kv_type),
    **{
        kind: lambda op, kv_type, rows, check=check: check(op)  # type: ignore[misc]
        for kind, check in {
            SumNorm: rows.check_sum_norm,
            SumSlice: rows.check_sum_slice,
            Gather: exchange.check_gather,
            GatherNorm: exchange.check_gather_norm,
            MovePartials: exchange.check_move,
            Quantize: rows.check_quantize,
            **dict.fromkeys((Clamp, HeadSums, HeadNorm, Rotate), heads.check_in_place),
            AttentionCombine: attention.check_attention_combine,
            HeadProducts: products.check_head_products,
            CopyHeads: heads.check_copy_heads,
            Activate: rows.check_activate,
            Convolution: recurrent.check_convolution,
            UnitNorm: recurrent.check_unit_norm,
            Recurrence: recurrent.check_recurrence,
            SquareSums: recurrent.check_square_sums,
            GatedNorm: recurrent.check_gated_norm,
            Route: experts.check_route,
            SharedRoutes: experts.check_shared_routes,
            ExpertTiles: experts.check_expert_tiles,
            ExpertMatMul: experts.check_expert_matmul,
            ExpertSum: experts.check_expert_sum,
            RowGate: experts.check_row_gate,
            LogitGroups: logits.check_logit_groups,
        }.items()
    },
}


@dataclass(frozen=True)
class SmallOp:
    """An op with shapes of the checks' own, and what else its check depends on."""

    op: Op
    kv_type: str
    num_rows: int  # of the program

    @property
    def digest(self) -> str:
        """Names its check among all that there are and were."""
        said = repr((__version__, VERSION, self.op, self.kv_type, self.num_rows))
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @property
    def limits(self) -> Limits:
        """The limits by which the dispatcher chooses its kernel."""
        return limits_for(max_rows=self.num_rows, max_logit_rows=self.num_rows, kv_type=self.kv_type)

    def check(self) -> Check:
        """Its check, with all that the buffers hold."""
        return CHECKS[type(self.op)](self.op, self.kv_type, self.num_rows)


def small_ops(programs: Iterable[Program], kv_type: str) -> list[SmallOp]:
    """Every kernel that these programs run, with every kind of argument, each once."""
    found: dict[SmallOp, None] = {}
    for program in programs:
        for op in (op for segment in program.segments for op in segment.ops):
            if not _computes_nothing(op):
                of_logits = isinstance(op, MatMul) and op.rows == "logit_rows"
                found[small_op(op, kv_type, program.logit_rows if of_logits else program.rows)] = None
    return list(found)


def small_op(op: Op, kv_type: str, num_rows: int) -> SmallOp:
    """An op of a program of so many rows, made small.

    There are kernels for one row, for two and for more of products, and for one and for several of attention
    in float32; others are checked with several rows, and those without a cache with any.
    """
    has_cache = isinstance(op, Attention | RopeCache)
    own: tuple[int, ...] = (1, 2) if isinstance(op, MatMul) else ()
    if isinstance(op, Attention) and op.activations == "f32":
        own = (1,)
    return SmallOp(
        SMALL[type(op)](op), kv_type if has_cache else "f32", num_rows if num_rows in own else ROWS
    )


def _computes_nothing(op: Op) -> bool:
    """A rank may hold nothing of a tensor: its program then has ops without heads or experts."""
    if isinstance(op, Attention | AttentionCombine | HeadProducts | CopyHeads):
        return op.num_heads == 0
    if isinstance(op, HeadSums | HeadNorm | Rotate | RopeCache):
        return op.heads.num_heads == 0
    if isinstance(op, ExpertMatMul | ExpertSum | ExpertTiles):
        return op.held.count == 0
    if isinstance(op, Recurrence):
        return op.heads.count == 0
    if isinstance(op, SquareSums):
        return op.num_heads == 0
    return isinstance(op, GatedNorm) and op.num_vectors == 0
