"""Dispatches of what devices exchange among themselves, and of what they move to the arena and from there."""

from __future__ import annotations

from tplaunch.collectives.arena import SLICE_UNIT, WORD_ELEMENTS
from tplaunch.worker.ops.common import GatherNorm
from tplaunch.worker.ops.exchange import ARENA, EXCHANGE, WORDS, Gather, MovePartials, words_offset
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, QUAD, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.norms import norm_fields
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import ExchangeNormPush, GatherPush, MovePush

# Workgroups: so few run all at once on every device, so that none waits for one that is still to begin.
# A driver for CPUs, with narrow subgroups, runs invocations one after another: few of them wait less often.
MAX_GROUPS = 32
FAMILY = "gather_partials"
UNITS = 8 * GROUP_SIZE  # that a workgroup of shaders/move_partials.slang moves
SPANS = {"all": 0, "slice": 1, "rest": 2}  # shaders/move_partials.slang
NO_SLOT = 0xFFFFFFFF


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


def gather_norm(op: GatherNorm, context: DispatchContext) -> Dispatch:
    partials = context.partials
    gathered = partials.parity_address(op.gather.parity)
    push = ExchangeNormPush(
        addends=gathered,
        gathered=gathered,
        words=context.address(WORDS),
        exchange=context.address(EXCHANGE),
        num_addends=partials.num_partials,
        rank=partials.write_slot,
        index=op.gather.index,
        **norm_fields(op.norm, context),
    )
    family = context.sum_norm.replace("sum", "exchange")
    return Dispatch(family + context.selection.variant(family).suffix, push, (context.program.rows, 1, 1))


def move_partials(op: MovePartials, context: DispatchContext) -> Dispatch:
    partials, row_length = context.partials, op.row_length or context.stride("hidden")
    first_slot, num_slots, skipped_slot = {
        "own": (partials.write_slot, 1, NO_SLOT),
        "peers": (0, partials.num_partials - 1, partials.write_slot),
        "all": (0, partials.num_partials, NO_SLOT),
        "sum": (0, 1, NO_SLOT),
    }[op.slots]
    assert partials.slot_bytes % QUAD == 0, f"slots of {partials.slot_bytes} bytes"
    push = MovePush(
        step=context.address("step"),
        own=partials.parity_address(op.parity),
        shared=context.address(ARENA) + op.parity * partials.num_slots * partials.slot_bytes,
        slot_stride=partials.slot_bytes // QUAD,
        row_length=row_length,
        rank=partials.write_slot,
        num_ranks=partials.num_partials,
        first_slot=first_slot,
        skipped_slot=skipped_slot,
        span=SPANS[op.span],
    )
    num_elements = context.program.rows * row_length
    if op.span == "slice":
        num_elements = ceil(ceil(num_elements, SLICE_UNIT), partials.num_partials) * SLICE_UNIT
    kernel = ("send" if op.sent else "take") + ("_partials" if op.wire == "f32" else "_partials_rounded")
    groups = ceil(num_elements, UNITS * (QUAD // FLOAT if op.wire == "f32" else 2 * QUAD // FLOAT))
    return Dispatch(kernel, push, (groups, max(1, num_slots), 1))
