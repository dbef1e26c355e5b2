"""From an op to a dispatch: which kernel, its push constants, how many workgroups. Records nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.attention_ops import Attention, AttentionCombine, Clamp, HeadNorm, HeadSums, Rope, RopeCache
from worker.latent_ops import CopyHeads, HeadProducts
from worker.ops import (
    Activate,
    MatMul,
    Op,
    Quantize,
    SumNorm,
    SumSlice,
)
from worker.vulkan.dispatch_attention import attention, attention_combine, rope_cache
from worker.vulkan.dispatch_context import DispatchContext
from worker.vulkan.dispatch_heads import clamp, head_norm, head_sums, rope
from worker.vulkan.dispatch_latent import copy_heads, head_products
from worker.vulkan.dispatch_products import matmul
from worker.vulkan.dispatch_recurrent import RECURRENT_DISPATCHES
from worker.vulkan.dispatch_rows import activate, quantize, sum_norm, sum_slice
from worker.vulkan.places import Dispatch

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
}


def dispatch(op: Op, context: DispatchContext) -> Dispatch:
    """What runs an op."""
    return DISPATCHES[type(op)](op, context)
