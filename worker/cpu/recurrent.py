"""Records operations of recurrent layers."""

from __future__ import annotations

from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.ops.recurrent import (
    SQUARE_SUMS,
    Convolution,
    GatedNorm,
    Recurrence,
    SquareSums,
    UnitNorm,
)


def convolution(op: Convolution, recorder: Recorder) -> None:
    recorder.kernel(
        "convolutions.convolve",
        projected=recorder.address("projected"),
        projected_stride=recorder.stride("projected"),
        weight=recorder.address(op.weight),
        weight_stride=4 * op.weight_stride,
        bias=recorder.vector(op.bias),
        state=recorder.address(op.state),
        output=recorder.address(op.output, op.output_offset),
        output_stride=recorder.stride(op.output),
        channels=op.channels,
        kernel=op.kernel,
        gated=int(op.gated),
        **recorder.room("taps", 64 * op.kernel),
        **recorder.runs(),
    )


def unit_norm(op: UnitNorm, recorder: Recorder) -> None:
    recorder.kernel(
        "recurrent.unit_norm",
        vectors=recorder.address("convolved"),
        stride=recorder.stride("convolved"),
        count=op.count,
        length=op.length,
        epsilon=float(op.epsilon),
        num_rows=recorder.num_rows(),
    )


def recurrence(op: Recurrence, recorder: Recorder) -> None:
    heads = op.heads
    length, paces_stride = heads.num_groups * heads.state_length, 8 * heads.count
    paces = int(recorder.scratch("paces", recorder.most_rows() * paces_stride).ctypes.data)
    recorder.kernel(
        "recurrent.pace",
        times_of=recorder.address("projected", op.time_offset),
        times_stride=recorder.stride("projected"),
        time_bias=recorder.address(op.time_bias, heads.first),
        decay_rate=recorder.address(op.decay_rate, heads.first),
        delta=int(op.delta),
        paces=paces,
        paces_stride=paces_stride,
        heads=heads.count,
        num_rows=recorder.num_rows(),
    )
    recorder.kernel(
        "recurrent.recur",
        queries=recorder.address("convolved"),
        keys=recorder.address("convolved", length),
        values=recorder.address("convolved", 2 * length),
        stride=recorder.stride("convolved"),
        paces=paces,
        paces_stride=paces_stride,
        skip=0 if op.skip is None else recorder.address(op.skip, heads.first),
        delta=int(op.delta),
        scale=heads.state_length**-0.5 if op.delta else 1.0,
        heads=heads.count,
        first_head=heads.first,
        divisor=heads.divisor,
        modulus=heads.modulus,
        first_group=heads.first_group,
        head_length=heads.head_length,
        state_length=heads.state_length,
        state=recorder.address(op.state),
        output=recorder.address("recurrence_output"),
        output_stride=recorder.stride("recurrence_output"),
        **recorder.runs(),
    )


def square_sums(op: SquareSums, recorder: Recorder) -> None:
    recorder.kernel(
        "recurrent.square_sums",
        values=recorder.address("recurrence_output"),
        values_stride=recorder.stride("recurrence_output"),
        gates=recorder.address("projected", op.gate_offset),
        gates_stride=recorder.stride("projected"),
        heads=op.num_heads,
        first_head=op.first_head,
        head_length=op.head_length,
        heads_per_group=op.heads_per_group,
        num_groups=op.num_groups,
        output=recorder.slot(op.parity),
        output_stride=4 * SQUARE_SUMS,
        num_rows=recorder.num_rows(),
    )


def gated_norm(op: GatedNorm, recorder: Recorder) -> None:
    sums, slot_stride, num_slots = (0, 0, 0) if op.parity is None else recorder.slots(op.parity)
    recorder.kernel(
        "recurrent.gated_norm",
        values=recorder.address("recurrence_output"),
        values_stride=recorder.stride("recurrence_output"),
        gates=recorder.address("projected", op.gate_offset),
        gates_stride=recorder.stride("projected"),
        weight=recorder.address(op.weight),
        weight_stride=4 * op.weight_stride,
        num_vectors=op.num_vectors,
        first_vector=op.first_vector,
        length=op.length,
        vectors_per_group=op.vectors_per_group,
        epsilon=float(op.epsilon),
        gate_first=int(op.gate_first),
        sums=sums,
        sums_stride=4 * SQUARE_SUMS,
        slot_stride=slot_stride,
        num_slots=num_slots,
        output=recorder.address("gated", op.output_offset),
        output_stride=recorder.stride("gated"),
        num_rows=recorder.num_rows(),
    )
