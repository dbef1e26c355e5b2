"""Dispatches of what devices exchange among themselves."""

from __future__ import annotations

from tplaunch.collectives.arena import WORD_ELEMENTS
from tplaunch.worker.ops.exchange import EXCHANGE, WORDS, Gather, words_offset
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import GatherPush

# Workgroups: so few run all at once on every device, so that none waits for one that is still to begin.
# A driver for CPUs, with narrow subgroups, runs invocations one after another: few of them wait less often.
MAX_GROUPS = 32
FAMILY = "gather_partials"


def gather(op: Gather, context: DispatchContext) -> Dispatch:
    partials = context.partials
    row_length = op.row_length or context.stride("hidden")
    num_elements = context.program.rows * row_length
    max_groups = 1 if context.has_few_lanes else MAX_GROUPS
    groups = max(1, min(max_groups, ceil(num_elements, GROUP_SIZE)))
    words = context.address(WORDS)
    push = GatherPush(
        step=context.address("step"),
        gathered=partials.parity_address(op.parity),
        words=words + words_offset(op.index, 0, partials.num_partials),
        stop=words,
        exchange=context.address(EXCHANGE),
        slot_stride=partials.slot_bytes // FLOAT,
        words_stride=WORD_ELEMENTS,
        row_length=row_length,
        rank=partials.write_slot,
        num_ranks=partials.num_partials,
        index=op.index,
        num_threads=groups * GROUP_SIZE,
    )
    return Dispatch(FAMILY + context.selection.variant(FAMILY).suffix, push, (groups, 1, 1))
