"""Dispatches of looking through logits."""

from __future__ import annotations

from tplaunch.coordinator.likeliest import GROUP_SIZE as GROUP_LENGTH
from tplaunch.worker.ops.logits import LOGIT_GROUPS, LogitGroups
from tplaunch.worker.vulkan.dispatch.context import GROUP_SIZE, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import LogitGroupsPush


def logit_groups(op: LogitGroups, context: DispatchContext) -> Dispatch:
    push = LogitGroupsPush(
        step=context.address("step"),
        logits=context.address("logits"),
        groups=context.address(LOGIT_GROUPS),
        count=op.count,
        num_whole=op.count // GROUP_LENGTH,
        num_groups=op.num_groups,
    )
    return Dispatch("logit_groups", push, (ceil(op.num_groups, GROUP_SIZE), context.program.logit_rows, 1))
