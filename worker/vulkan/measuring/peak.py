"""Measures how fast a device multiplies and adds where it does nothing else.

In float32, by cooperative matrices of float16, and by integer dots of bytes: the kernels are
shaders/multiply_adds.slang, matrices_multiply_adds.slang and multiply_adds_dot.slang.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from ctypes import Structure
from dataclasses import dataclass
from typing import Protocol

from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.push_constants.kernels import (
    MatricesMultiplyAddsPush,
    MultiplyAddsDotPush,
    MultiplyAddsPush,
)

NUM_INVOCATIONS, NUM_INVOCATIONS_ON_CPU = 1 << 20, 1 << 12  # a card is full of them
FEW_ROUNDS, MAX_ROUNDS = 16, 1 << 14
RUN_SECONDS, NUM_RUNS = 20e-3, 3
FACTOR, ADDEND = 0.999, 0.001  # numbers stay numbers
BYTES = 0x01FF02FE  # factors of integers, each other one negative
MATRIX_FACTOR, MATRIX_SUMS, LANE_NUMBERS = 0.25, 4, 8  # of matrices: exact in float16


class MakesPush(Protocol):
    """Makes the push constants of a run."""

    def __call__(self, address: int, rounds: int) -> Structure: ...


@dataclass(frozen=True)
class Peak:
    """A kernel that only multiplies and adds, for products of rows that are activated so."""

    activations: str
    kernel: str
    group_size: int
    result_bytes: int  # of an invocation
    operations: int  # of an invocation in a round
    push: MakesPush


FLOATS = Peak(
    "f32",
    "multiply_adds",
    64,
    16,
    2 * 64,
    lambda address, rounds: MultiplyAddsPush(output=address, rounds=rounds, factor=FACTOR, addend=ADDEND),
)
INTEGERS = Peak(
    "q8",
    "multiply_adds_dot",
    64,
    16,
    2 * 4 * 64,
    lambda address, rounds: MultiplyAddsDotPush(output=address, rounds=rounds, factor=BYTES),
)


def peaks(context: Context) -> Iterator[Peak]:
    """Yields what a device has a peak of."""
    yield FLOATS
    if context.matrices is not None:
        yield Peak(
            "f16",
            "matrices_multiply_adds",
            256,
            LANE_NUMBERS * 4,
            2 * MATRIX_SUMS * LANE_NUMBERS * context.matrices.k,
            lambda address, rounds: MatricesMultiplyAddsPush(
                output=address, rounds=rounds, factor=MATRIX_FACTOR
            ),
        )
    if "integer_dot_product" in context.info.features:
        yield INTEGERS


def multiply_add_rate(context: Context, pipelines: Pipelines, peak: Peak = FLOATS) -> float:
    """Multiplications and additions per second. Raises DeviceError."""
    num_invocations = NUM_INVOCATIONS_ON_CPU if context.info.type == "cpu" else NUM_INVOCATIONS
    num_groups = num_invocations // peak.group_size
    memory = Memory(context, unmapped=False)
    try:
        memory.create({"output": Buffer(num_invocations * peak.result_bytes)})
        run = context, pipelines, memory["output"].address, num_groups
        seconds_of(*run, FEW_ROUNDS, peak)  # compiles
        first = seconds_of(*run, FEW_ROUNDS, peak)
        rounds = max(FEW_ROUNDS, min(MAX_ROUNDS, int(FEW_ROUNDS * RUN_SECONDS / first)))
        seconds = min(seconds_of(*run, rounds, peak) for _ in range(NUM_RUNS))
    finally:
        memory.close()
    return peak.operations * num_invocations * rounds / seconds


def seconds_of(
    context: Context, pipelines: Pipelines, address: int, num_groups: int, rounds: int, peak: Peak = FLOATS
) -> float:
    """Times a run that writes what comes of so many rounds to an address."""
    push = bytes(peak.push(address, rounds))
    pipeline, layout = pipelines[peak.kernel], pipelines.layout

    def record(commands: Handle) -> None:
        lib.vkCmdBindPipeline(commands, vk.VK_PIPELINE_BIND_POINT_COMPUTE, pipeline)
        stage = vk.VK_SHADER_STAGE_COMPUTE_BIT
        lib.vkCmdPushConstants(commands, layout, stage, 0, len(push), ffi.from_buffer(push))
        lib.vkCmdDispatch(commands, num_groups, 1, 1)

    started = time.perf_counter()
    context.run_once(record)
    return time.perf_counter() - started
