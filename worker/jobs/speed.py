"""Measures how fast one device multiplies, as a split needs to know.

Goes the way of a step, through the same kernels, on a matrix that no cache holds.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import Span
from tplaunch.coordinator.split.shards import Shard
from tplaunch.shaders.load import kernels_hash
from tplaunch.worker.buffers.stacks import Stack
from tplaunch.worker.buffers.step import StepLayout, StepView
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import Device, DeviceId, SelfCheckingDevice, TunableDevice
from tplaunch.worker.jobs.messages import Speed, SpeedJob
from tplaunch.worker.measuring.measurements import Measurements, cache_folder
from tplaunch.worker.open_device import open_device
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.weights.loading import load_stacks
from tplaunch.worker.weights.random_weights import RandomWeights

CPU = "cpu"  # the name of a device of compiled kernels
TYPE, COLUMNS = "Q8_0", 4096
NUM_WEIGHTS, NUM_WEIGHTS_ON_CPU = 1 << 27, 1 << 24  # of the matrix: more bytes than a cache has
NUM_PRODUCTS = 4  # in one submission, so that its cost does not count
MIN_RUNS, MIN_SECONDS = 3, 0.3  # a GPU takes some time to raise its clock
NAME = "weights per second"
LIMITS = Limits(context_length=1, num_blocks=1, max_rows=1, max_logit_rows=1)


def device_speed(job: SpeedJob, device_id: DeviceId) -> Speed:
    """Opens the device and measures it, or finds what was measured before. Raises DeviceError."""
    # A CPU driver's core may be shared, which must not count; its work is this process's.
    clock = time.process_time if job.on_cpu else time.perf_counter
    num_weights = NUM_WEIGHTS_ON_CPU if job.on_cpu else NUM_WEIGHTS
    device = open_device(device_id, job.options, LIMITS)
    try:
        measure = functools.partial(measure_speed, device, num_weights, clock)
        return Speed(_kept_speed(device, job.options, job.anew, measure))
    finally:
        device.close()


def _kept_speed(device: Device, options: RankOptions, anew: bool, measure: Callable[[], float]) -> float:
    """The same at every start, so that a split stays what it is."""
    measurements = _measurements(device)
    option = " ".join(["matrix-vector", *sorted(options.without), *_threads(device, options)])
    kept = measurements.get(NAME).get(option)
    if kept and not anew:
        return kept
    measurements.put(NAME, {option: measure()})
    measurements.save()
    speed = measurements.get(NAME)[option]
    assert speed is not None, "it was just measured"
    return speed


def _threads(device: Device, options: RankOptions) -> list[str]:
    """Says on which cores compiled kernels run, and by how many threads where that is not one for each."""
    if device.name != CPU:
        return []
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return [f"on {cores}", *([f"by {options.cpu_threads}"] if options.cpu_threads else [])]


def _measurements(device: Device) -> Measurements:
    """With what else was measured on the device."""
    from tplaunch.worker.vulkan.device import VulkanDevice  # imported only now: NumPy needs no Vulkan loader
    from tplaunch.worker.vulkan.measuring.tuning import open_measurements

    if isinstance(device, VulkanDevice):
        return open_measurements(device.info)
    kernels = kernels_hash()
    if device.name == CPU:
        from tplaunch.worker.cpu.code import kernels_identity

        kernels = kernels_identity()
    return Measurements(cache_folder(), {"kind": device.kind, "node": platform.node()}, kernels)


def measure_speed(device: Device, num_weights: int, clock: Callable[[], float]) -> float:
    """Weights per second of a matrix-vector product. Raises DeviceError."""
    return product_rate(device, num_weights, clock, TYPE, LIMITS)


def product_rate(
    device: Device, num_weights: int, clock: Callable[[], float], type_: str, limits: Limits
) -> float:
    """Returns a matrix's weights per second of products with as many rows as a step may have.

    Raises DeviceError.
    """
    rows, num_rows = max(1, num_weights // COLUMNS), limits.max_rows
    matrix = Matrix("matrix", type_, rows, COLUMNS)
    product = MatMul(matrix, None, "input", "output", 0, "rows")
    program = Program(num_rows, 0, (Segment((product,) * NUM_PRODUCTS, None),))
    if isinstance(device, SelfCheckingDevice):
        device.prove([program])
    if isinstance(device, TunableDevice):
        device.tune(program)
    _load(device, matrix, limits)
    device.prepare(program)
    header = StepView(device.view("step").view(np.uint32), StepLayout(limits)).header
    header[:4] = (num_rows, 0, 0, 0)
    best, started, num_runs = math.inf, time.perf_counter(), 0
    while num_runs < MIN_RUNS or time.perf_counter() - started < MIN_SECONDS:
        begin = clock()
        device.submit(program, num_rows)
        device.finish(0)
        best = min(best, clock() - begin)
        num_runs += 1
    return NUM_PRODUCTS * rows * COLUMNS / best


def _load(device: Device, matrix: Matrix, limits: Limits) -> None:
    """Every buffer of the program, the matrix filled with made-up weights."""
    num_rows = limits.max_rows
    rows_of_columns = Buffer(num_rows * COLUMNS * 4, Placement.UPLOAD, COLUMNS)
    shape = (matrix.rows, matrix.columns)
    nbytes = matrix.rows * WEIGHT_TYPES[matrix.type].row_bytes(matrix.columns)
    tensors: Mapping[str, TensorInfo] = {"matrix": TensorInfo("matrix", matrix.type, shape, 0, nbytes)}
    stack = Stack("matrix", (Shard("matrix", matrix.type, Span(0, shape[0]), Span(0, shape[1]), 0),))
    device.create_buffers(
        {
            "matrix": Buffer(stack.nbytes, Placement.WEIGHTS),
            "step": Buffer(StepLayout(limits).num_words * 4, Placement.UPLOAD),
            **dict.fromkeys(("input", "hidden"), rows_of_columns),
            "output": Buffer(num_rows * matrix.rows * 4, Placement.READBACK, matrix.rows),
        }
    )
    device.view("input").view(np.float32)[:] = np.linspace(-1, 1, num_rows * COLUMNS, dtype=np.float32)
    for _ in load_stacks(device, RandomWeights(tensors.values()), {"matrix": stack}, tensors):
        pass
    device.finish_loading()
