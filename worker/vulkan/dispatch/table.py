"""Turns an op into a dispatch: a kernel, its push constants, a number of workgroups. Records nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.handlers import by_op
from tplaunch.worker.vulkan.dispatch import (
    attention,
    exchange,
    experts,
    heads,
    latent,
    logits,
    products,
    recurrent,
    rows,
)
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import Dispatch

DISPATCHES: dict[type, Callable[[Any, DispatchContext], Dispatch]] = by_op(
    DispatchContext, attention, exchange, experts, heads, latent, logits, products, recurrent, rows
)


def dispatch(op: Op, context: DispatchContext) -> Dispatch:
    """Returns the dispatch that runs an op."""
    return DISPATCHES[type(op)](op, context)
