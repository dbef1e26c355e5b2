"""The push constants of kernels that add up and normalise rows, whether they exchange before or not."""

from __future__ import annotations

from typing import Any

from tplaunch.worker.ops.common import SumNorm
from tplaunch.worker.vulkan.dispatch.context import QUAD, DispatchContext

NORM_NUMBERS = {"rms": 1, "layer": 2}  # shaders/sum_norm.slang


def norm_fields(op: SumNorm, context: DispatchContext) -> dict[str, Any]:
    """Returns the push constants that they have in common: all but what is added up."""
    return {
        "step": context.address("step"),
        "source": context.address_or_none(op.source),
        "weight": context.address_or_none(op.weight),
        "bias": context.address_or_none(op.bias),
        "hidden": context.address("hidden"),
        "output": context.address(op.output),
        "slot_stride": context.partials.slot_bytes // QUAD,
        "row_stride": context.quads("hidden"),
        "has_source": op.source is not None,
        "has_bias": op.bias is not None,
        "stores_hidden": op.stores_hidden,
        "norm": 0 if op.weight is None else NORM_NUMBERS[op.norm],
        "width": op.width,
        "inverse_width": 1 / op.width,
        "epsilon": op.epsilon,
    }
