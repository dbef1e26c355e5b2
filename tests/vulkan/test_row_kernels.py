"""Kernels over rows of activations (sum and norm, rope and cache, gated activation) against NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, assert_close, limits_for, random_floats
from tests.vulkan.reused_cpu import ReusedCpu
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.common import Activate, SumNorm, SumSlice
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.measuring.bench import NO_PARTIALS
from tplaunch.worker.vulkan.memory import Slice
from tplaunch.worker.vulkan.variants import Selection

SEEDS = st.integers(0, 999)
Floats = np.typing.NDArray[np.float32]


def padded_rows(rng: np.random.Generator, *shape: int) -> np.typing.NDArray[np.float32]:
    """Random rows, filled up with zeros to whole tiles."""
    rows = np.zeros((*shape[:-1], padded(shape[-1])), np.float32)
    rows[..., : shape[-1]] = random_floats(rng, *shape)
    return rows


def sum_norm_case(
    width: int, rows: int, num_rows: int, num_partials: int, parity: int | None, in_place: bool, seed: int
) -> Case:
    rng = np.random.default_rng(seed)
    arrays = {
        "hidden": padded_rows(rng, rows, width),
        "embedding": padded_rows(rng, rows, width),
        "normed": padded_rows(rng, rows, width),
        "weight": padded_rows(rng, width),
    }
    op = SumNorm(
        source="hidden" if in_place else "embedding",
        addend=None if parity is None else "partials",
        parity=parity,
        weight="weight",
        width=width,
        epsilon=1e-5,
        output="normed",
        rows="rows",
    )
    partials = padded_rows(rng, 2, num_partials, rows, width).reshape(2, num_partials, -1)
    return Case(limits_for(max_rows=rows), (op,), arrays, num_rows, rows, partials=partials)


def check(device: ReusedDevice, case: Case, tolerance: float = 1e-5) -> None:
    assert_close(device.run(case), case.run(NumpyDevice(case.limits)), tolerance)


@settings(max_examples=25)
@given(
    width=st.integers(1, 300).map(lambda quads: 4 * quads),
    rows=st.integers(1, 20),
    spare_rows=st.integers(0, 3),
    num_partials=st.integers(1, 8),
    parity=st.sampled_from([None, 0, 1]),
    in_place=st.booleans(),
    seed=SEEDS,
)
def test_sum_norm(
    device: ReusedDevice,
    width: int,
    rows: int,
    spare_rows: int,
    num_partials: int,
    parity: int | None,
    in_place: bool,
    seed: int,
) -> None:
    case = sum_norm_case(width, rows + spare_rows, rows, num_partials, parity, in_place, seed)
    check(device, case)


# Lanes and invocations of other devices, and the kernel that is theirs. Drivers for CPUs have few lanes,
# with which no device runs the larger ones.
SUM_NORMS = [
    (16, 128, "sum_norm_64"),
    (16, 255, "sum_norm_64"),
    (16, 256, "sum_norm"),
    (16, 1024, "sum_norm"),
    (32, 1023, "sum_norm"),
    (32, 1024, "sum_norm_1024"),
    (8, 1024, "sum_norm_64"),
]


@pytest.mark.parametrize(("lanes", "max_invocations", "kernel"), SUM_NORMS)
def test_devices_with_larger_workgroups_sum_with_more_invocations(
    lanes: int, max_invocations: int, kernel: str
) -> None:
    program, nowhere = Program(3, 0, ()), Slice(0, 0)
    context = DispatchContext(
        program,
        lambda name: nowhere,
        NO_PARTIALS,
        limits_for(max_rows=3),
        lanes,
        max_invocations,
        Selection(()),
        0,
    )
    assert context.sum_norm == kernel


def as_if(
    device: ReusedDevice | ReusedCpu, lanes: int, max_invocations: int, patch: pytest.MonkeyPatch
) -> None:
    """From now on the device runs the kernels of another one; skips where its workgroups are too small.

    Processors have one kernel, which is tried once.
    """
    if isinstance(device, ReusedCpu):
        if max_invocations < 1024:
            pytest.skip("processors have one kernel only")
        return
    if device.info.max_invocations < max_invocations:
        pytest.skip(f"workgroups of {device.info.max_invocations} invocations are too small")
    info = dataclasses.replace(
        device.info, max_subgroup_size=lanes, required_subgroup_size=0, max_invocations=max_invocations
    )
    patch.setattr(device, "info", info)


@pytest.mark.parametrize(("lanes", "max_invocations"), [(16, 128), (16, 256), (32, 1024)])
@settings(max_examples=15)
@given(
    width=st.integers(1, 3000).map(lambda quads: 4 * quads),
    rows=st.integers(1, 3),
    num_partials=st.integers(1, 5),
    parity=st.sampled_from([None, 0, 1]),
    in_place=st.booleans(),
    norm=st.sampled_from(["rms", "layer", None]),
    seed=SEEDS,
)
def test_every_sum_norm_of_short_and_long_rows(
    device: ReusedDevice,
    lanes: int,
    max_invocations: int,
    width: int,
    rows: int,
    num_partials: int,
    parity: int | None,
    in_place: bool,
    norm: str | None,
    seed: int,
) -> None:
    """Rows that fit in registers, and rows that don't; the sums are NumPy's bits."""
    case = sum_norm_case(width, rows, rows, num_partials, parity, in_place, seed)
    (op,) = case.ops
    assert isinstance(op, SumNorm)
    op = dataclasses.replace(op, norm=norm or "rms", weight="weight" if norm else None)
    case = dataclasses.replace(case, ops=(op,))
    expected = case.run(NumpyDevice(case.limits))
    with pytest.MonkeyPatch.context() as patch:
        as_if(device, lanes, max_invocations, patch)
        found = device.run(case)
    assert np.array_equal(found["hidden"], expected["hidden"])
    assert_close(found, expected, 1e-5)


def test_sum_norm_adds_in_rank_order(device: ReusedDevice) -> None:
    """Bit by bit what NumPy adds from left to right, so that equal devices go on from equal numbers."""
    case = sum_norm_case(1000, 4, 4, num_partials=5, parity=1, in_place=False, seed=0)
    expected = case.run(NumpyDevice(case.limits))["hidden"]
    assert np.array_equal(device.run(case)["hidden"], expected)


@settings(max_examples=20)
@given(
    width=st.integers(1, 300).map(lambda quads: 4 * quads),
    rows=st.integers(1, 20),
    spare_rows=st.integers(0, 3),
    num_partials=st.integers(1, 8),
    parity=st.sampled_from([0, 1]),
    seed=SEEDS,
)
def test_slices_are_summed_as_sum_norm_sums(
    device: ReusedDevice, width: int, rows: int, spare_rows: int, num_partials: int, parity: int, seed: int
) -> None:
    """Bit by bit, and nothing else is touched; the ranks' slices together are the whole sum."""
    case = sum_norm_case(width, rows + spare_rows, rows, num_partials, parity, in_place=True, seed=seed)
    one_shot = case.run(NumpyDevice(case.limits))["hidden"]
    arena = case.partials
    for rank in range(num_partials):
        sliced = dataclasses.replace(case, ops=(SumSlice(parity, rank),), partials=arena)
        expected = sliced.run(NumpyDevice(case.limits))["partials"]
        arena = device.run(sliced)["partials"]
        assert np.array_equal(arena, expected)
    (op,) = case.ops
    assert isinstance(op, SumNorm)
    summed = dataclasses.replace(case, ops=(dataclasses.replace(op, summed=True),), partials=arena)
    assert np.array_equal(device.run(summed)["hidden"], one_shot)


@settings(max_examples=40)
@given(
    data=st.data(), width=st.integers(1, 90).map(lambda quads: 4 * quads), rows=st.integers(1, 6), seed=SEEDS
)
def test_every_kind_of_sum_and_norm(
    device: ReusedDevice, data: st.DataObject, width: int, rows: int, seed: int
) -> None:
    """A far mean shows whether a layer norm takes it away before it squares."""
    rng = np.random.default_rng(seed)
    capacity = rows + data.draw(st.integers(0, 2), "spare rows")
    names = ("hidden", "embedding", "block", "normed")
    arrays = {name: padded_rows(rng, capacity, width) for name in names}
    arrays["embedding"][:, :width] += data.draw(st.sampled_from([0, 100]), "mean")
    arrays |= {name: padded_rows(rng, width) for name in ("weight", "bias")}
    source = data.draw(st.sampled_from([None, "hidden", "embedding"]), "source")
    addends = ["block", "partials"] if source is None else [None, "block", "partials"]
    addend = data.draw(st.sampled_from(addends), "addend")
    op = SumNorm(
        source,
        data.draw(st.sampled_from([None, "weight"]), "weight"),
        width,
        1e-5,
        "normed",
        "rows",
        addend,
        1 if addend == "partials" else None,
        data.draw(st.sampled_from(["rms", "layer"]), "norm"),
        data.draw(st.sampled_from([None, "bias"]), "bias"),
    )
    partials = padded_rows(rng, 2, 3, capacity, width).reshape(2, 3, -1)
    check(device, Case(limits_for(max_rows=capacity), (op,), arrays, rows, capacity, partials=partials), 1e-4)


def test_sum_norm_of_a_very_long_row(device: ReusedDevice) -> None:
    check(device, sum_norm_case(131072, 1, 1, num_partials=8, parity=0, in_place=True, seed=0))


@settings(max_examples=10)
@given(rows=st.integers(1, 9), data=st.data(), seed=SEEDS)
def test_sum_norm_of_logit_rows(device: ReusedDevice, rows: int, data: st.DataObject, seed: int) -> None:
    chosen = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(seed)
    arrays = {
        "hidden": padded_rows(rng, rows, 52),
        "weight": padded_rows(rng, 52),
        "final": padded_rows(rng, 6, 52),
    }
    op = SumNorm("hidden", "weight", 52, 1e-6, "final", "logit_rows", "partials", 1)
    partials = padded_rows(rng, 2, 2, rows, 52).reshape(2, 2, -1)
    limits = limits_for(max_rows=rows, max_logit_rows=6)
    case = Case(limits, (op,), arrays, rows, rows, tuple(chosen), 6, partials=partials)
    check(device, case)


@settings(max_examples=5)
@given(
    columns=st.integers(1, 200),
    rows=st.integers(1, 12),
    spare_rows=st.integers(0, 3),
    offset=st.integers(0, 50),
    seed=SEEDS,
)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATION_FUNCTIONS)
def test_activate(
    device: ReusedDevice,
    activation: str,
    gated: bool,
    columns: int,
    rows: int,
    spare_rows: int,
    offset: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    capacity = rows + spare_rows
    arrays = {
        "gate_up": 30 * random_floats(rng, capacity, 2 * columns),
        "activated": random_floats(rng, capacity, padded(offset + columns)),
        "divisors": 1 + rng.random(columns, np.float32),
    }
    op = Activate(columns, offset, activation, gated, None if gated else "divisors")
    check(device, Case(limits_for(max_rows=capacity), (op,), arrays, rows, capacity))
