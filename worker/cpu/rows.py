"""Records operations on rows of activations."""

from __future__ import annotations

from typing import Any

from tplaunch.collectives.arena import SLICE_UNIT
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.common import Activate, SumNorm, SumSlice

ROW_UNIT = 16  # float32 that threads are given at once


def sum_norm(op: SumNorm, recorder: Recorder) -> None:
    assert op.output not in (op.source, op.addend) or op.rows == "rows", "rows that others still need"
    slots, slot_stride, num_slots = 0, 0, 0
    addend_stride = recorder.stride("hidden")
    if op.parity is not None:
        slots, slot_stride, num_slots = recorder.slots(op.parity)
        num_slots = 1 if op.summed else num_slots
    elif op.addend is not None:
        slots, addend_stride, num_slots = recorder.address(op.addend), recorder.stride(op.addend), 1
    recorder.kernel(
        "rows.sum_norm",
        source=recorder.vector(op.source),
        source_stride=recorder.stride(op.source) if op.source is not None else 0,
        addend=slots,
        addend_stride=addend_stride,
        slot_stride=slot_stride,
        num_slots=num_slots,
        hidden=recorder.address("hidden") if op.stores_hidden else 0,
        hidden_stride=recorder.stride("hidden"),
        output=recorder.address(op.output),
        output_stride=recorder.stride(op.output),
        weight=recorder.vector(op.weight),
        bias=recorder.vector(op.bias if op.weight is not None else None),
        width=op.width,
        epsilon=float(op.epsilon),
        is_layer=int(op.norm == "layer"),
        chosen=recorder.logit_rows() if op.rows == "logit_rows" else 0,
        num_rows=recorder.num_rows(op.rows),
    )


def sum_slice(op: SumSlice, recorder: Recorder) -> None:
    slots, _, num_slots = recorder.slots(op.parity)
    add_slots(recorder, op.parity, slots, recorder.stride("hidden") // 4, SLICE_UNIT, op.rank, num_slots)


def add_slots(
    recorder: Recorder,
    parity: int,
    output: int,
    row_length: int,
    unit: int = ROW_UNIT,
    part: int = 0,
    num_parts: int = 1,
) -> None:
    """Adds up all ranks' slots of a parity, of rows that lie end to end, or a part of them."""
    slots, stride, num_slots = recorder.slots(parity)
    recorder.kernel(
        "rows.add_slots",
        slots=slots,
        slot_stride=stride,
        num_slots=num_slots,
        output=output,
        row_length=row_length,
        unit=unit,
        part=part,
        num_parts=num_parts,
        num_rows=recorder.num_rows(),
    )


def activate(op: Activate, recorder: Recorder) -> None:
    finish(
        recorder,
        products=recorder.address("gate_up"),
        products_stride=recorder.stride("gate_up"),
        activation=op.activation,
        gated=int(op.gated),
        divisors=recorder.vector(op.divisors),
        output=recorder.address(op.output, op.output_offset),
        output_stride=recorder.stride(op.output),
        columns=op.columns,
        num_rows=recorder.num_rows(),
    )


def finish(recorder: Recorder, activation: str | None, **arguments: Any) -> None:
    """Has products finished in the way that is given; in no way where nothing is said of it."""
    kept = {"scales": 0, "bias": 0, "scale": 1.0, "divisors": 0, "softcap": 0.0, "accumulates": 0}
    number = ACTIVATION_NUMBERS[activation]
    recorder.kernel("rows.finish", **{**kept, **arguments, "activation": number})
