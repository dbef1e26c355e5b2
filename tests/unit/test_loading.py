"""Weights are loaded by several threads, in little memory beyond the device's, and an error is not lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.buffers.stacks import Stack, stack_shards
from tplaunch.worker.buffers.table import weight_buffers
from tplaunch.worker.device import FillPlaces, Place
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.weights.loading import load_stacks
from tplaunch.worker.weights.model_file import CHUNK_BYTES, load_stack
from tplaunch.worker.weights.random_weights import RandomWeights

LIMITS = Limits(64, 2)


class Loading:
    """One of two ranks of a shape, its weight buffers still empty."""

    def __init__(self, shape: str, weight_type: str) -> None:
        spec = SHAPES[shape].spec
        self.tensors = shape_tensors(SHAPES[shape], weight_type)
        self.weights = RandomWeights(self.tensors.values())
        shards = rank_shards(spec, make_plan(spec, [1.0, 2.0])[1], self.tensors)
        self.buffers = weight_buffers(shards)
        self.stacks: dict[str, Stack] = stack_shards(shards)

    def device(self) -> NumpyDevice:
        device = NumpyDevice(LIMITS)
        device.create_buffers(self.buffers)
        return device


@pytest.mark.parametrize("weight_type", ["F32", "F16", "Q8_0", "Q4_0"])
def test_threads_load_what_one_would(weight_type: str) -> None:
    of = Loading("tiny", weight_type)
    device, reference = of.device(), of.device()
    loaded = list(load_stacks(device, of.weights, of.stacks, of.tensors))
    assert len(loaded) == len(of.stacks)
    for stack in of.stacks.values():
        for _ in load_stack(reference, of.weights, stack, of.tensors):
            pass
        np.testing.assert_array_equal(device.view(stack.name), reference.view(stack.name))
        assert device.view(stack.name).any()


@pytest.mark.parametrize("weight_type", ["Q8_0", "F16"])
def test_loading_takes_no_memory_of_its_own(weight_type: str) -> None:
    of = Loading("llama-160m", weight_type)
    device = of.device()
    tracemalloc.start()
    try:
        loaded = sum(load_stacks(device, of.weights, of.stacks, of.tensors))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded > 16 * CHUNK_BYTES
    assert peak < CHUNK_BYTES


class BrokenDevice(NumpyDevice):
    """Fails at one buffer."""

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        if buffer == "output.weight":
            raise OSError("the disk is gone")
        super().fill(buffer, places, write)


def test_an_error_in_a_thread_ends_loading() -> None:
    of = Loading("tiny", "Q8_0")
    device = BrokenDevice(LIMITS)
    device.create_buffers(of.buffers)
    with pytest.raises(OSError, match="the disk is gone"):
        list(load_stacks(device, of.weights, of.stacks, of.tensors))
