"""Compares the bytes that decode reads per token with the copy bandwidth."""

from dataclasses import replace

import pytest

from tests.models import LIMITS
from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.measuring.ledger import make_ledger
from tplaunch.coordinator.messages import Ready
from tplaunch.coordinator.serving.benchmark import Measurement, Test
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, make_plan
from tplaunch.launcher.commands.roofline import Roofline, roofline_text, rooflines
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.model import Model
from tplaunch.worker.measuring.bandwidth import copy_bandwidth
from tplaunch.worker.numpy.device import NumpyDevice

GPU, NUMPY, CPU = DeviceChoice(0, "gpu", on_cpu=False), DeviceChoice(None, "numpy"), DeviceChoice(None, "cpu")
SHAPE = SHAPES["llama-160m"]
MODEL = Model(Origin(), {}, shape_tensors(SHAPE, "F16"), SHAPE.spec)
READY = Ready(0, "import", copy_bandwidth=1e10)


def of_ranks(test: Test, *choices: DeviceChoice, seconds: float = 1.0) -> tuple[Roofline, ...]:
    measurement = Measurement(test, (seconds,), make_ledger([], 1, 1.0))
    limits = Limits(context_length=64, num_blocks=2)
    plan = make_plan(SHAPE.spec, [1.0] * len(choices))
    return rooflines(MODEL, limits, plan, choices, [READY] * len(choices), measurement)


def test_a_token_reads_the_weights_once_but_for_the_embedding() -> None:
    (alone,) = of_ranks(Test("decode", 10), GPU)
    weights = sum(each.nbytes for name, each in MODEL.tensors.items() if name != "token_embd.weight")
    assert alone.bytes_per_token == pytest.approx(weights, rel=0.01)
    assert alone.bytes_per_second == alone.bytes_per_token * 10
    assert alone.reached == alone.bytes_per_second / 1e10


def test_a_context_adds_its_keys_and_values() -> None:
    (short,), (long,) = of_ranks(Test("decode", 10), GPU), of_ranks(Test("decode", 10, 1000), GPU)
    per_position = 12 * 4 * (64 + 64) * 2  # layers, KV heads, key and value, float16
    assert long.bytes_per_token - short.bytes_per_token == 1000 * per_position


def test_layers_with_a_window_read_no_more_than_that() -> None:
    gemma = SHAPES["gemma-3-270m"]
    model = Model(Origin(), {}, shape_tensors(gemma, "F16"), gemma.spec)
    plan, limits = make_plan(gemma.spec, [1.0]), Limits(context_length=64, num_blocks=2, num_window_blocks=2)
    found: list[Roofline] = []
    for context in (1000, 2000):
        measurement = Measurement(Test("decode", 10, context), (1.0,), make_ledger([], 1, 1.0))
        found += rooflines(model, limits, plan, [GPU], [READY], measurement)
    per_position = 2 * 256 * 2  # key and value, float16
    assert found[1].bytes_per_token - found[0].bytes_per_token == 1000 * 3 * per_position


def test_ranks_share_the_reading_and_numpy_reads_float32() -> None:
    (alone,), shared = of_ranks(Test("decode", 10), GPU), of_ranks(Test("decode", 10), GPU, GPU)
    assert sum(each.bytes_per_token for each in shared) == pytest.approx(alone.bytes_per_token, rel=0.01)
    (widened,) = of_ranks(Test("decode", 10), NUMPY)
    assert widened.bytes_per_token == pytest.approx(2 * alone.bytes_per_token, rel=0.01)
    assert of_ranks(Test("decode", 10), CPU)[0].bytes_per_token == alone.bytes_per_token


def test_prefill_has_none() -> None:
    assert of_ranks(Test("prefill", 10), GPU) == ()


def test_the_line_names_the_rank_that_reads_most() -> None:
    found = [Roofline(1e6, 1e9, 1e10), Roofline(3e6, 3e9, 1e10)]
    expected = "3.0 MB of weights and KV per token and rank, 3.0 GB/s, 30.0% of the 10.0 GB/s of a copy"
    assert roofline_text(found) == expected
    assert roofline_text([Roofline(1e6, 1e9, 0)]).endswith("1.0 GB/s")


def test_a_device_in_host_memory_copies_that() -> None:
    assert 1e6 < copy_bandwidth(NumpyDevice(LIMITS)) < 1e13


@pytest.mark.parametrize("split", EXPERT_SPLITS)
def test_of_experts_those_that_a_token_goes_to_are_read(split: str) -> None:
    shape = SHAPES["tiny-moe"]
    tensors = shape_tensors(shape, "F32")
    in_experts = sum(tensor.nbytes for name, tensor in tensors.items() if "_exps." in name)
    measurement = Measurement(Test("decode", 1), (1.0,), make_ledger([], 1, 1.0))
    total = {}
    for used in (2, 8):
        experts = replace(shape.spec.experts[0], used=used)
        layers = tuple(replace(layer, experts=experts) for layer in shape.spec.layers)
        model = Model(Origin(), {}, tensors, replace(shape.spec, layers=layers))
        plan = make_plan(model.spec, [1.0, 2.0], split)  # whole tiles of columns
        found = rooflines(model, LIMITS, plan, [GPU] * 2, [READY] * 2, measurement)
        total[used] = sum(each.bytes_per_token for each in found)
    assert total[8] - total[2] == pytest.approx(in_experts * 6 / 8)
