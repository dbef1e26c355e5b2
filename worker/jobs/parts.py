"""Measures one part of a device's speeds for `tplaunch check`, and tells of each number when it is there."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tplaunch.worker.buffers.step import StepLayout, StepView
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.figures import (
    BYTES,
    COPIES,
    OPERATIONS,
    PRODUCTS,
    SECONDS,
    WAITS,
    Figure,
    FigureBegun,
    PartJob,
)
from tplaunch.worker.measuring.idle import LIMITS, idle_buffers, idle_program

if TYPE_CHECKING:  # NumPy ranks need no Vulkan loader
    from tplaunch.worker.vulkan.context import Context
    from tplaunch.worker.vulkan.device import VulkanDevice
    from tplaunch.worker.vulkan.measuring.rates import Product, Rate, Rates

NUM_SEGMENTS, NUM_STEPS = 8, 40
WAITING = {
    "block": "segment, host sleeps",
    "poll": "segment, host polls",
    "word": "segment, by a word",
}
MOVES = {
    "device": "copy on the device",
    "from_host": "host memory to device",
    "to_host": "device to host memory",
    "written": "host writes to device",
    "read": "host reads what came",
}

PEAKS = {
    "f32": "multiply-adds, float32",
    "f16": "multiply-adds, f16 matrices",
    "q8": "multiply-adds, 8-bit dots",
}
ATTENTION = "attention.4096", "attention, 4,096 keys"
EXPERTS = "experts.q4_k", "experts q4_k"
LATE = "there was no time left for it"
NOT_SEEN = "the host can't see the device's memory (no resizable BAR): it writes by way of its own"

Say = Callable[[Any], None]


def measure_part(job: PartJob, device_id: DeviceId, say: Say) -> None:
    """Says a FigureBegun and a Figure for each number of a part. Raises DeviceError."""
    if device_id.index is None:
        from tplaunch.worker.jobs.processor_figures import measure_part as measure_processors

        measure_processors(job, device_id, say)
        return
    deadline = time.monotonic() + job.seconds
    if job.part == WAITS:
        _waits(job, device_id, say)
        return
    with _opened(job, device_id) as context:
        {COPIES: _copies, PRODUCTS: _products}[job.part](context, deadline, say)


@contextmanager
def _opened(job: PartJob, device_id: DeviceId) -> Iterator[Context]:
    from tplaunch.worker.vulkan.context import Context

    assert device_id.index is not None, "a Vulkan device has an index"
    options = job.options
    context = Context(device_id.index, device_id.uuid, options.validate, frozenset(options.without))
    try:
        yield context
    finally:
        context.close()


def _waits(job: PartJob, device_id: DeviceId, say: Say) -> None:
    """Times a segment that does next to nothing: its way to the device and back."""
    from tplaunch.worker.vulkan.device import VulkanDevice

    for ahead in (True, False):
        device = VulkanDevice(device_id, dataclasses.replace(job.options, submit_ahead=ahead), LIMITS)
        try:
            _create_buffers(device)
            for way, what in WAITING.items() if ahead else (("block", "segment, queued singly"),):
                key = f"wait.{way}" if ahead else "wait.singly"
                say(FigureBegun(key, what))
                say(Figure(key, what, f"{NUM_SEGMENTS} in a step", _seconds_of_segment(device, way), SECONDS))
        finally:
            device.close()


def _create_buffers(device: VulkanDevice) -> None:
    device.create_buffers(idle_buffers())
    StepView(device.view("step").view(np.uint32), StepLayout(LIMITS)).header[:4] = (1, 0, 0, 0)


def _seconds_of_segment(device: VulkanDevice, way: str) -> float:
    """The least of some steps."""
    program = idle_program(NUM_SEGMENTS)
    device.wait_by(way)
    device.prepare(program)
    best = math.inf
    for _ in range(NUM_STEPS):
        started = time.perf_counter()
        device.submit(program, 1)
        for number in range(NUM_SEGMENTS):
            if number:
                device.release(number)
            device.finish(number)
        best = min(best, time.perf_counter() - started)
    return best / NUM_SEGMENTS


def _copies(context: Context, deadline: float, say: Say) -> None:
    """Times copies of each direction."""
    from tplaunch.worker.vulkan.measuring.bandwidth import open_copies

    with open_copies(context, with_host=True) as copies:
        of = f"{copies.nbytes >> 20} MiB"
        by_device = copies.on_device, copies.from_host, copies.to_host
        measures = (*by_device, copies.written_by_host, copies.read_by_host)
        for (key, what), measure in zip(MOVES.items(), measures, strict=True):
            say(FigureBegun(f"copy.{key}", what))
            if time.monotonic() > deadline:
                say(Figure(f"copy.{key}", what, of, note=LATE))
                continue
            rate = measure()
            say(Figure(f"copy.{key}", what, of, rate or None, BYTES, note="" if rate else NOT_SEEN))


def _products(context: Context, deadline: float, say: Say) -> None:
    """Times the device's multiplications and additions alone, and products of each weight type."""
    from tplaunch.worker.measuring.measurements import cache_folder
    from tplaunch.worker.vulkan.measuring.peak import multiply_add_rate, peaks
    from tplaunch.worker.vulkan.measuring.rates import ROUNDED, Rates
    from tplaunch.worker.vulkan.pipelines import Pipelines

    pipelines = Pipelines(context, cache_folder())
    try:
        for peak in peaks(context):
            key, what = f"peak.{peak.activations}", PEAKS[peak.activations]
            say(FigureBegun(key, what))
            is_slow = peak.activations == "q8" and not context.info.integer_dot_accelerated
            of = "not accelerated" if is_slow else "in registers"
            say(Figure(key, what, of, multiply_add_rate(context, pipelines, peak), OPERATIONS))
        rates = Rates(context, pipelines)
        products = list(rates.products())
        others = next(i for i, product in enumerate(products) if product.type not in ROUNDED)
        for number, product in enumerate(products):
            if number == others:  # behind the most wanted ones
                _say_of(ATTENTION, SECONDS, lambda: _attention(rates, deadline), say)
                _say_of(EXPERTS, OPERATIONS, lambda: _experts(rates, deadline), say)
            key, what = _key(product), _what(product)
            say(FigureBegun(key, what))
            rate = rates.rate(product, deadline) if time.monotonic() < deadline else None
            say(Figure(key, what, "", note=LATE) if rate is None else _figure(key, what, rate))
        pipelines.keep()
    finally:
        pipelines.close()


def _say_of(
    what: tuple[str, str], unit: str, found: Callable[[], tuple[float, str] | None], say: Say
) -> None:
    """Measures one thing more: a number of the unit and what it is of, or nothing where it got late."""
    say(FigureBegun(*what))
    told = found()
    say(Figure(*what, "", note=LATE) if told is None else Figure(*what, told[1], told[0], unit))


def _attention(rates: Rates, deadline: float) -> tuple[float, str] | None:
    found = rates.attention_seconds(deadline)
    return found and (found[0], _with_variant("32 heads, f16", found[1]))


def _experts(rates: Rates, deadline: float) -> tuple[float, str] | None:
    found = rates.experts(deadline)
    if found is None:
        return None
    rate, count, variant = found
    return rate, _with_variant(f"{count} expert{'s' * (count > 1)}", variant)


def _with_variant(what: str, variant: str) -> str:
    return " ".join((what, *filter(None, variant.split("_"))))


def _key(product: Product) -> str:
    kind = "matvec" if product.is_of_one_row else "matmul"
    suffix = "" if product.activations == "f32" else f".{product.activations}"
    return f"{kind}.{product.type.lower()}{suffix}"


def _what(product: Product) -> str:
    kind = "mat-vec" if product.is_of_one_row else "mat-mat"
    suffix = "" if product.activations == "f32" else f", {product.activations}"
    return f"{kind} {product.type.lower()}{suffix}"


def _figure(key: str, what: str, rate: Rate) -> Figure:
    size = f"{rate.matrix_rows} x {rate.columns}" if rate.num_rows == 1 else f"{rate.num_rows} rows"
    of = _with_variant(size, rate.variant)  # short: the table is for 80 columns
    if rate.num_rows == 1:
        return Figure(key, what, of, rate.bytes_per_second, BYTES)
    return Figure(key, what, of, rate.operations_per_second, OPERATIONS)
