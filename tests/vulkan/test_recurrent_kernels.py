"""Kernels of layers with a recurrent state against NumPy: several sequences in a step, state over steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, assert_close, limits_for, random_floats
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.recurrent import (
    Convolution,
    GatedNorm,
    Recurrence,
    RecurrentHeads,
    SquareSums,
    UnitNorm,
)

SEEDS = st.integers(0, 999)
NUM_SLOTS = 6
Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Runs:
    """Rows of some sequences: how many of each, the slots of its state; and rows to spare."""

    lengths: tuple[int, ...]
    read_slots: tuple[int | None, ...]
    write_slots: tuple[int, ...]
    spare_rows: int = 0

    @property
    def num_rows(self) -> int:
        return sum(self.lengths)

    @property
    def rows(self) -> int:
        return self.num_rows + self.spare_rows

    def case(self, op: Op, arrays: Arrays, **changes: Any) -> Case:
        return Case(
            limits_for(max_rows=self.rows, num_slots=NUM_SLOTS),
            (op,),
            arrays,
            self.num_rows,
            self.rows,
            run_starts=tuple(np.cumsum([0, *self.lengths])),
            read_slots=self.read_slots,
            write_slots=self.write_slots,
            **changes,
        )


@st.composite
def some_runs(draw: st.DrawFn) -> Runs:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=NUM_SLOTS))
    slots = draw(st.permutations(range(NUM_SLOTS)))
    written, others = slots[: len(lengths)], slots[len(lengths) :]
    # A state that begins, that goes on in place, or that one or several runs take over from elsewhere.
    read = [draw(st.sampled_from([None, slot, *others])) for slot in written]
    return Runs(tuple(lengths), tuple(read), tuple(written), draw(st.integers(0, 3)))


def check(device: ReusedDevice, case: Case, tolerance: float = 2e-5) -> None:
    assert_close(device.run(case), case.run(NumpyDevice(case.limits)), tolerance)


def convolution(gated: bool, channels: int, kernel: int, has_bias: bool = False) -> Convolution:
    bias = "bias" if has_bias else None
    return Convolution("weight", 32, bias, "state", "gated", 3, channels, kernel, gated)


def convolution_arrays(rng: np.random.Generator, op: Convolution, rows: int) -> Arrays:
    return {
        "projected": random_floats(rng, rows, 3 * op.channels + 2),
        "weight": random_floats(rng, op.channels, op.weight_stride),
        "bias": random_floats(rng, op.channels),
        "state": random_floats(rng, NUM_SLOTS, op.kernel - 1, op.channels),
        "gated": random_floats(rng, rows, op.channels + 5),
    }


@settings(max_examples=25)
@given(
    runs=some_runs(),
    channels=st.integers(1, 200),
    kernel=st.integers(2, 8),
    gated=st.booleans(),
    has_bias=st.booleans(),
    seed=SEEDS,
)
def test_convolution(
    device: ReusedDevice, runs: Runs, channels: int, kernel: int, gated: bool, has_bias: bool, seed: int
) -> None:
    op = convolution(gated, channels, kernel, has_bias and not gated)
    check(device, runs.case(op, convolution_arrays(np.random.default_rng(seed), op, runs.rows)))


def test_the_convolution_is_the_one_that_numpy_knows(device: ReusedDevice) -> None:
    """Against np.convolve: the twin is right, too."""
    op = convolution(True, 5, 4)
    arrays = convolution_arrays(np.random.default_rng(0), op, 12)
    results = (
        Runs((12,), (None,), (3,)).case(op, arrays).run(NumpyDevice(limits_for(max_rows=12, num_slots=6)))
    )
    before, behind, values = np.split(arrays["projected"][:, :15], 3, axis=1)
    for channel in range(5):
        inputs = (before * values)[:, channel]
        taps = arrays["weight"][channel, :4]
        expected = behind[:, channel] * np.convolve(inputs, taps[::-1])[:12]
        np.testing.assert_allclose(results["gated"][:, 3 + channel], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=15)
@given(
    rows=st.integers(1, 9),
    spare_rows=st.integers(0, 3),
    count=st.integers(1, 9),
    length=st.integers(1, 200),
    seed=SEEDS,
)
def test_unit_norm(
    device: ReusedDevice, rows: int, spare_rows: int, count: int, length: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = random_floats(rng, rows + spare_rows, count * length + 7)
    vectors[0] *= 1e-3  # squares add up to about epsilon
    runs = Runs((rows,), (None,), (0,), spare_rows)
    check(device, runs.case(UnitNorm(count, length, 1e-6), {"convolved": vectors}))


def test_short_vectors_stay_short() -> None:
    """The delta rule's norm is x / sqrt(sum(x * x) + epsilon); here from far below epsilon to far above."""
    vectors = np.array([[3e-6, 4e-6], [3e-3, 4e-3], [0.3, 0.4], [30, 40], [0, 0]], np.float32)
    case = Runs((5,), (None,), (0,)).case(UnitNorm(1, 2, 1e-4), {"convolved": vectors})
    results = case.run(NumpyDevice(limits_for(max_rows=5, num_slots=6)))
    lengths = np.array([5e-6, 5e-3, 0.5, 50, 0])
    expected = lengths / np.sqrt(lengths**2 + 1e-4)
    np.testing.assert_allclose(np.linalg.norm(results["convolved"], axis=1), expected, rtol=1e-5)


def recurrence(delta: bool, heads: RecurrentHeads) -> Recurrence:
    time_offset = 2 * heads.num_groups * heads.state_length
    skip = None if delta else "skip"
    return Recurrence(delta, heads, "factor", "time_bias", skip, "state", time_offset)


def recurrence_arrays(rng: np.random.Generator, op: Recurrence, rows: int) -> Arrays:
    """Keys and queries of unit length, as the delta rule needs them to stay in bounds."""
    heads = op.heads
    keys = random_floats(rng, rows, 2 * heads.num_groups, heads.state_length)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    values = random_floats(rng, rows, heads.count * heads.head_length + 3)
    num_heads = heads.first + heads.count
    return {
        "projected": 3 * random_floats(rng, rows, op.time_offset + 2 * heads.count + 1),
        "convolved": np.concatenate((keys.reshape(rows, -1), values), axis=1),
        "factor": -rng.uniform(0.01, 1, num_heads).astype(np.float32),
        "time_bias": random_floats(rng, num_heads),
        "skip": random_floats(rng, num_heads),
        "state": random_floats(rng, NUM_SLOTS, heads.count, heads.state_length, heads.head_length),
        "recurrence_output": random_floats(rng, rows, heads.count * heads.head_length + 2),
    }


@st.composite
def some_heads(draw: st.DrawFn) -> RecurrentHeads:
    """Draws heads that share groups as neighbours, or alternately; a rank may hold a part of a group."""
    per_group, num_groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    first = draw(st.integers(0, per_group * num_groups - 1))
    count = draw(st.integers(1, per_group * num_groups - first))
    tiled = draw(st.booleans())
    divisor = 1 if tiled else per_group
    groups = [head // divisor % num_groups for head in range(first, first + count)]
    lengths = draw(st.sampled_from([1, 3, 16, 64, 70])), draw(st.sampled_from([16, 32, 128]))
    return RecurrentHeads(
        count, first, divisor, num_groups, max(groups) - min(groups) + 1, min(groups), *lengths
    )


@settings(max_examples=30)
@given(runs=some_runs(), heads=some_heads(), delta=st.booleans(), seed=SEEDS)
def test_recurrence(device: ReusedDevice, runs: Runs, heads: RecurrentHeads, delta: bool, seed: int) -> None:
    op = recurrence(delta, heads)
    check(device, runs.case(op, recurrence_arrays(np.random.default_rng(seed), op, runs.rows)))


def test_as_many_rows_as_a_step_may_have(device: ReusedDevice) -> None:
    """With the longest keys: an invocation that ran too many iterations would be cut off."""
    op = recurrence(True, RecurrentHeads(1, 0, 1, 1, 1, 0, 1, 256))
    runs = Runs((512,), (None,), (1,))
    check(device, runs.case(op, recurrence_arrays(np.random.default_rng(0), op, 512)), tolerance=1e-4)


def carried(
    run: Callable[[Case], Arrays], op: Op, arrays: Arrays, per_row: Sequence[str], chunks: Sequence[int]
) -> Arrays:
    """Runs a sequence chunk by chunk: per_row names what has a row of its own for each position."""
    outputs: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in per_row}
    state, start, read = arrays["state"], 0, None
    for length in chunks:
        part = {name: arrays[name][start : start + length] for name in per_row}
        written = 2 + start % 3  # now the slot that is read, now another
        runs = Runs((length,), (read,), (written,))
        results = run(runs.case(op, {**arrays, **part, "state": state}))
        state, start, read = results["state"], start + length, written
        for name in per_row:
            outputs[name].append(results[name])
    return {"state": state[read], **{name: np.concatenate(parts) for name, parts in outputs.items()}}


OPS: dict[str, tuple[Op, Callable[..., Arrays], tuple[str, ...]]] = {
    "convolution": (convolution(False, 70, 4, True), convolution_arrays, ("projected", "gated")),
    "short convolution": (convolution(True, 70, 3), convolution_arrays, ("projected", "gated")),
    "delta": (
        recurrence(True, RecurrentHeads(4, 0, 2, 2, 2, 0, 20, 32)),
        recurrence_arrays,
        ("projected", "convolved", "recurrence_output"),
    ),
    "scan": (
        recurrence(False, RecurrentHeads(4, 0, 2, 2, 2, 0, 20, 32)),
        recurrence_arrays,
        ("projected", "convolved", "recurrence_output"),
    ),
}


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", OPS)
def test_chunks_carry_the_state_on(device: ReusedDevice, name: str, chunk: int) -> None:
    op, arrays_of, per_row = OPS[name]
    arrays = arrays_of(np.random.default_rng(1), op, 23)

    def on_numpy(case: Case) -> Arrays:
        return case.run(NumpyDevice(case.limits))

    whole = carried(device.run, op, arrays, per_row, [23])
    lengths = [min(chunk, 23 - start) for start in range(0, 23, chunk)]
    for run in (device.run, on_numpy):
        assert_close(carried(run, op, arrays, per_row, lengths), whole, 2e-5)


@settings(max_examples=25)
@given(data=st.data(), gate_first=st.booleans(), shared_weight=st.booleans(), seed=SEEDS)
def test_gated_norm(
    device: ReusedDevice, data: st.DataObject, gate_first: bool, shared_weight: bool, seed: int
) -> None:
    rng, rows, spare_rows = np.random.default_rng(seed), data.draw(st.integers(1, 9)), 2
    count, first, length = (data.draw(st.integers(low, 9)) for low in (1, 0, 1))
    length *= data.draw(st.sampled_from([1, 8, 33]))
    op = GatedNorm(
        weight="weight",
        weight_stride=0 if shared_weight else length + 3,
        num_vectors=count,
        first_vector=first,
        length=length,
        vectors_per_group=1,
        epsilon=1e-5,
        gate_first=gate_first,
        gate_offset=4,
        output_offset=1,
    )
    arrays = {
        "recurrence_output": random_floats(rng, rows + spare_rows, count * length),
        "projected": 4 * random_floats(rng, rows + spare_rows, count * length + 6),
        "weight": random_floats(rng, count, length + 3),
        "gated": random_floats(rng, rows + spare_rows, count * length + 2),
    }
    check(device, Runs((rows,), (None,), (0,), spare_rows).case(op, arrays))


@settings(max_examples=15)
@given(
    per_group=st.integers(1, 4),
    num_groups=st.integers(1, 3),
    length=st.sampled_from([1, 16, 50]),
    cut=st.integers(0, 12),
    parity=st.sampled_from([0, 1]),
    seed=SEEDS,
)
def test_ranks_that_share_groups_normalise_as_one(
    device: ReusedDevice, per_group: int, num_groups: int, length: int, cut: int, parity: int, seed: int
) -> None:
    """Two ranks, one of which may hold no head: sums of squares, and then the norm, as by one rank."""
    rng, rows, num_heads = np.random.default_rng(seed), 3, per_group * num_groups
    runs, cut = Runs((rows,), (None,), (0,), 1), min(cut, num_heads)
    whole = {
        name: random_floats(rng, rows + 1, num_heads * length)
        for name in ("recurrence_output", "projected", "gated")
    }
    weight = random_floats(rng, num_groups, per_group * length)
    alone = GatedNorm("weight", per_group * length, num_groups, 0, per_group * length, 1, 1e-5, True, 0, 0)
    case = runs.case(alone, {**whole, "weight": weight})
    expected = case.run(NumpyDevice(case.limits))["gated"]
    arena = random_floats(rng, 2, 2, (rows + 1) * 8)
    spans = [(0, cut), (cut, num_heads)]
    parts = [
        {name: np.ascontiguousarray(array[:, a * length : b * length]) for name, array in whole.items()}
        for a, b in spans
    ]
    for rank, (first, stop) in enumerate(spans):
        sums = SquareSums(stop - first, first, length, per_group, num_groups, 0, parity)
        case = runs.case(sums, parts[rank], partials=arena, write_slot=rank)
        results = device.run(case)
        assert_close(results, case.run(NumpyDevice(case.limits)), 1e-5)
        arena = results["partials"]
    for (first, stop), part in zip(spans, parts, strict=True):
        if first == stop:
            continue
        stride = per_group * length
        norm = GatedNorm("weight", stride, stop - first, first, length, per_group, 1e-5, True, 0, 0, parity)
        own = {**part, "weight": weight[norm.first_group :]}
        case = runs.case(norm, own, partials=arena)
        results = device.run(case)
        assert_close(results, case.run(NumpyDevice(case.limits)), 1e-5)
        found, wanted = results["gated"][:rows], expected[:rows, first * length : stop * length]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
