"""From an op to a dispatch: which kernel, its push constants, how many workgroups. Records nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tplaunch.worker.ops.attention import (
    Attention,
    AttentionCombine,
    Clamp,
    HeadNorm,
    HeadSums,
    Rope,
    RopeCache,
)
from tplaunch.worker.ops.common import (
    Activate,
    MatMul,
    Op,
    Quantize,
    SumNorm,
    SumSlice,
)
from tplaunch.worker.ops.experts import ExpertMatMul, ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes
from tplaunch.worker.ops.latent import CopyHeads, HeadProducts
from tplaunch.worker.vulkan.dispatch.attention import attention, attention_combine, rope_cache
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.experts import (
    expert_matmul,
    expert_sum,
    expert_tiles,
    route,
    row_gate,
    shared_routes,
)
from tplaunch.worker.vulkan.dispatch.heads import clamp, head_norm, head_sums, rope
from tplaunch.worker.vulkan.dispatch.latent import copy_heads, head_products
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.dispatch.products import matmul
from tplaunch.worker.vulkan.dispatch.recurrent import RECURRENT_DISPATCHES
from tplaunch.worker.vulkan.dispatch.rows import activate, quantize, sum_norm, sum_slice

DISPATCHES: dict[type, Callable[[Any, DispatchContext], Dispatch]] = {
    SumNorm: sum_norm,
    SumSlice: sum_slice,
    Quantize: quantize,
    MatMul: matmul,
    Clamp: clamp,
    HeadSums: head_sums,
    HeadNorm: head_norm,
    Rope: rope,
    RopeCache: rope_cache,
    Attention: attention,
    AttentionCombine: attention_combine,
    HeadProducts: head_products,
    CopyHeads: copy_heads,
    Activate: activate,
    **RECURRENT_DISPATCHES,
    Route: route,
    SharedRoutes: shared_routes,
    ExpertTiles: expert_tiles,
    ExpertMatMul: expert_matmul,
    ExpertSum: expert_sum,
    RowGate: row_gate,
}


def dispatch(op: Op, context: DispatchContext) -> Dispatch:
    """What runs an op."""
    return DISPATCHES[type(op)](op, context)
