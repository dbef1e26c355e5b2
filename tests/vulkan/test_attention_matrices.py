"""Attention of the rows of prompts by cooperative matrices, against NumPy; on devices that have some."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import (
    FEW_POSITIONS,
    POSITIONS,
    attention_case,
    attention_cases,
    attention_op,
    attention_ops,
    check,
)
from tests.vulkan.test_same_bits import Sequences
from tplaunch.worker.buffers.cuts import CHUNK, CUT
from tplaunch.worker.ops.attention import MATRIX_HEADS, MATRIX_KV_TYPES, Attention

TOLERANCE = 2e-3  # a weight of 11 bits may be rounded to its neighbour


@pytest.fixture(scope="module")
def matrices(device: ReusedDevice) -> ReusedDevice:
    """The device, where its kernels multiply cooperative matrices."""
    if not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices (make test-matrices)")
    return device


LENGTHS = st.sampled_from([8, 40, 64, 80, 96, 120, 128, 136, 192, 248, 256])


@st.composite
def matrix_ops(draw: st.DrawFn) -> Attention:
    """Heads that the kernels hold."""
    op, length = draw(attention_ops(st.integers(1, 9))), draw(LENGTHS)
    value_length = draw(st.sampled_from([length, 64, 128, 256]))
    return dataclasses.replace(op, key_length=length, value_length=value_length, activations="f16")


def in_sequences(case: Case, count: int) -> Case:
    """The same rows as neighbours of so many sequences; each may see all blocks of its last row."""
    bounds = np.linspace(0, len(case.positions), count + 1).astype(int).tolist()
    starts: list[int] = []
    for first, stop in itertools.pairwise(bounds):
        longest = max(range(first, stop), key=lambda row: case.positions[row], default=0)
        starts += [case.table_starts[longest]] * (stop - first)
    return dataclasses.replace(case, table_starts=tuple(starts))


MANY_POSITIONS = st.builds(
    lambda first, count: tuple(range(first, first + count)), POSITIONS, st.integers(6, 90)
)


@pytest.mark.parametrize("kv_type", MATRIX_KV_TYPES)
@settings(max_examples=25)
@given(data=st.data(), sequences=st.integers(1, 3))
def test_any_shape(matrices: ReusedDevice, kv_type: str, data: st.DataObject, sequences: int) -> None:
    positions = FEW_POSITIONS | MANY_POSITIONS
    cases = attention_cases(kv_type, matrix_ops(), positions, max_spare_rows=70, cuts_finished=True)
    case = data.draw(cases)
    check(matrices, in_sequences(case, min(sequences, len(case.positions))), TOLERANCE)


@st.composite
def rows_of_sequences(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Chunks of the prompts of some sequences, in any order of these."""
    chunks = []
    for sequence in range(draw(st.integers(1, 3))):
        last = draw(st.integers(0, 60) | st.integers(0, 700))
        first = max(0, last - draw(st.integers(0, 40)))
        chunks.append([(sequence, position) for position in range(first, last + 1)])
    return [row for chunk in draw(st.permutations(chunks)) for row in chunk]


@pytest.mark.parametrize("kv_type", MATRIX_KV_TYPES)
@settings(max_examples=8)
@given(op=matrix_ops(), rows=rows_of_sequences(), cut=st.integers(1, 60), data=st.data())
def test_bits_are_the_same_in_any_company(
    matrices: ReusedDevice,
    kv_type: str,
    op: Attention,
    rows: list[tuple[int, int]],
    cut: int,
    data: st.DataObject,
) -> None:
    """All rows in one step, in two, some of them alone, and in any order; finished by attention or not."""
    lengths = [1 + max((at for own, at in rows if own == sequence), default=0) for sequence in range(3)]
    sequences = Sequences(op, lengths, kv_type, sinks=data.draw(st.booleans()), seed=0)

    def attended(chosen: list[tuple[int, int]], **way: Any) -> npt.NDArray[np.uint32]:
        part_length = data.draw(st.sampled_from([CUT, CHUNK]))
        return sequences.attended(matrices, chosen, part_length, **way).view(np.uint32)

    together = attended(rows)
    assert together.any() and np.isfinite(together.view(np.float32)).all()
    assert np.array_equal(attended(rows, finishes=True), together)
    cut = min(cut, len(rows))
    parts = [attended(part, finishes=True) for part in (rows[:cut], rows[cut:]) if part]
    assert np.array_equal(np.concatenate(parts), together)
    order = data.draw(st.permutations(range(len(rows))))
    assert np.array_equal(attended([rows[index] for index in order]), together[order])
    for index in data.draw(st.lists(st.sampled_from(range(len(rows))), max_size=2)):
        assert np.array_equal(attended([rows[index]])[0], together[index])


@pytest.mark.parametrize("length", MATRIX_HEADS)
def test_what_a_row_does_not_see_adds_nothing(matrices: ReusedDevice, length: int) -> None:
    """Keys and values that only rows behind it see may be as large as float16 holds."""
    lengths = {"key_length": length, "value_length": length}
    op = attention_op(num_heads=2, heads_per_kv_head=2, activations="f16", **lengths)
    case = attention_case(op, tuple(range(40, 80)), kv_type="f16")
    case.table_starts = (case.table_starts[-1],) * 40
    few = dataclasses.replace(case, num_rows=20)
    expected = matrices.run(few)["attended"][:20]
    block = case.tables[case.table_starts[0] + 2]  # of the positions 64 to 95
    for name in ("keys", "values"):
        case.arrays[name].reshape(-1, 32, length)[block] = np.float16(60000)
    assert np.array_equal(matrices.run(case)["attended"][:20], expected)


@pytest.mark.parametrize("length", MATRIX_HEADS)
def test_large_queries_are_no_infinities(matrices: ReusedDevice, length: int) -> None:
    """Nor do small ones vanish."""
    op = attention_op(key_length=length, value_length=length, scale=1.0, activations="f16")
    for scale in (1e5, 1e-6):
        case = attention_case(op, (0, 40, 70), kv_type="f16")
        case.arrays["query"] *= np.float32(scale)
        check(matrices, case, TOLERANCE)


def test_long_contexts(matrices: ReusedDevice) -> None:
    """More iterations than lavapipe once let a loop have."""
    op = attention_op(num_heads=2, heads_per_kv_head=2, key_length=64, value_length=64, scale=0.1)
    op = dataclasses.replace(op, activations="f16")
    check(matrices, attention_case(op, (CHUNK + 7,), part_length=CHUNK, kv_type="f16"), TOLERANCE)
