"""The checks of kernels, without a device: what they cover, how large they are, what they find wrong."""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
import pytest

from tplaunch.coordinator.options import FEATURES
from tplaunch.worker.buffers.cuts import CUT
from tplaunch.worker.checking.case import Case
from tplaunch.worker.checking.check import relative_error
from tplaunch.worker.checking.everything import every_op
from tplaunch.worker.checking.table import CHECKS, ROWS, SMALL, SmallOp, small_op
from tplaunch.worker.numpy.device import RUN, NumpyDevice
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.matrix import Matrix

EVERYTHING = every_op(FEATURES, has_matrices=True)
MAX_BYTES = 8 << 20  # of the buffers of a check


def op_types() -> set[type]:
    """All of the union, which holds another one."""
    return {kind for part in typing.get_args(Op) for kind in (typing.get_args(part) or (part,))}


def test_every_op_has_a_check() -> None:
    assert SMALL.keys() == CHECKS.keys() == RUN.keys() == op_types()
    assert {type(op.op) for op in EVERYTHING} == op_types()


def one_of_each() -> list[SmallOp]:
    found: dict[tuple[type, str, int], SmallOp] = {}
    for op in EVERYTHING:
        found.setdefault((type(op.op), op.kv_type, op.num_rows), op)
    return list(found.values())


@pytest.mark.parametrize(
    "op", one_of_each(), ids=lambda op: f"{type(op.op).__name__}-{op.kv_type}-{op.num_rows}"
)
def test_numpy_agrees_with_itself(op: SmallOp) -> None:
    """And the results are numbers: what is infinite or no number compares with nothing."""
    check = op.check()
    expected = check.expected()
    assert check.error(check.run(NumpyDevice(check.case.limits)), expected) == 0 < check.bound
    assert all(np.isfinite(values).mean() > 0.5 for values in expected.values())
    assert sum(array.nbytes for array in check.case.arrays.values()) < MAX_BYTES


@pytest.mark.parametrize(
    "op", one_of_each(), ids=lambda op: f"{type(op.op).__name__}-{op.kv_type}-{op.num_rows}"
)
def test_doing_nothing_is_wrong(op: SmallOp) -> None:
    """The results that a kernel is to write differ from the numbers that lie there already."""
    check = op.check()

    class Idle(NumpyDevice):
        def finish(self, segment: int) -> None:
            pass

    assert check.error(check.run(Idle(check.case.limits)), check.expected()) > 2 * check.bound


def test_small_ops_stay_small_and_are_small_already() -> None:
    for op in EVERYTHING:
        assert small_op(op.op, op.kv_type, op.num_rows) == op


def attention(num_heads: int, context: int) -> Attention:
    return Attention("keys 7", "values 7", num_heads, num_heads // 4, 0, 4, 128, 128, 0.1, window=context)


def test_shapes_do_not_grow_with_the_model() -> None:
    small, large = (small_op(attention(*sizes), "f16", 256) for sizes in ((8, 4096), (128, 1 << 20)))
    assert small == large and small.op.window > 256  # type: ignore[union-attr]
    products = [MatMul(Matrix("any", "Q4_K", rows, 4096), None, "x", "y", 9, "rows") for rows in (99, 10**6)]
    assert len({small_op(op, "f16", 8) for op in products}) == 1


def test_attention_crosses_cuts_and_parts() -> None:
    for rows in (1, ROWS):
        case: Case = small_op(attention(8, 0), "f16", rows).check().case
        assert max(case.positions) >= case.part_length > CUT


def test_what_a_check_depends_on_is_in_its_digest() -> None:
    op = small_op(attention(8, 0), "f16", 1)
    softer = small_op(dataclasses.replace(attention(8, 0), softcap=30.0), "f16", 1)
    others = [softer, dataclasses.replace(op, kv_type="f32"), dataclasses.replace(op, num_rows=ROWS)]
    assert len({one.digest for one in (op, *others)}) == 4


@pytest.mark.parametrize(("actual", "error"), [
    ([1.0, -4.0], 0.0), ([1.0, -3.0], 0.25), ([1.0, math.nan], math.inf), ([math.inf, -4.0], math.inf),
])  # fmt: skip
def test_errors_are_relative_to_the_largest_value(actual: list[float], error: float) -> None:
    assert relative_error(np.array(actual), np.array([1.0, -4.0])) == error


def test_what_is_no_number_on_both_sides_is_no_error() -> None:
    assert relative_error(np.array([np.nan, 2.0]), np.array([np.nan, 2.0])) == 0
