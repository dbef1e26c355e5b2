"""Measures how fast a device multiplies and adds float32 where it does nothing else.

The kernel is shaders/multiply_adds.slang.
"""

from __future__ import annotations

import time

from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.push_constants.kernels import MultiplyAddsPush

KERNEL, GROUP_SIZE, RESULT_BYTES = "multiply_adds", 64, 16
OPERATIONS = 2 * 64  # of an invocation in a round
NUM_GROUPS, NUM_GROUPS_ON_CPU = 1 << 14, 1 << 6  # a card is full of them
FEW_ROUNDS, MAX_ROUNDS = 16, 1 << 14
RUN_SECONDS, NUM_RUNS = 20e-3, 3
FACTOR, ADDEND = 0.999, 0.001  # numbers stay numbers


def multiply_add_rate(context: Context, pipelines: Pipelines) -> float:
    """Multiplications and additions per second. Raises DeviceError."""
    num_groups = NUM_GROUPS_ON_CPU if context.info.type == "cpu" else NUM_GROUPS
    memory = Memory(context, unmapped=False)
    try:
        memory.create({"output": Buffer(num_groups * GROUP_SIZE * RESULT_BYTES)})
        address = memory["output"].address
        seconds_of(context, pipelines, address, num_groups, FEW_ROUNDS)  # compiles
        first = seconds_of(context, pipelines, address, num_groups, FEW_ROUNDS)
        rounds = max(FEW_ROUNDS, min(MAX_ROUNDS, int(FEW_ROUNDS * RUN_SECONDS / first)))
        seconds = min(seconds_of(context, pipelines, address, num_groups, rounds) for _ in range(NUM_RUNS))
    finally:
        memory.close()
    return OPERATIONS * num_groups * GROUP_SIZE * rounds / seconds


def seconds_of(context: Context, pipelines: Pipelines, address: int, num_groups: int, rounds: int) -> float:
    """Times a run that writes what comes of so many rounds to an address."""
    push = bytes(MultiplyAddsPush(output=address, rounds=rounds, factor=FACTOR, addend=ADDEND))
    pipeline, layout = pipelines[KERNEL], pipelines.layout

    def record(commands: Handle) -> None:
        lib.vkCmdBindPipeline(commands, vk.VK_PIPELINE_BIND_POINT_COMPUTE, pipeline)
        stage = vk.VK_SHADER_STAGE_COMPUTE_BIT
        lib.vkCmdPushConstants(commands, layout, stage, 0, len(push), ffi.from_buffer(push))
        lib.vkCmdDispatch(commands, num_groups, 1, 1)

    started = time.perf_counter()
    context.run_once(record)
    return time.perf_counter() - started
