"""The kernel that looks through logits, against NumPy; and that a host finds the same tokens with it."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, limits_for
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.likeliest import SUM_ERROR, exact_log_sum, likeliest, log_sum_of_groups
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.logits import LOGIT_GROUPS, LogitGroups

SPECIAL = (-np.inf, 0.0, -0.0, 1e-40, 88.0, -200.0)


@settings(max_examples=40)
@given(
    count=st.one_of(st.integers(1, 200), st.integers(1, 9000)),
    num_rows=st.integers(1, 3),
    num_values=st.sampled_from([1, 3, 50, 10**6]),
    special=st.sampled_from([0.0, 0.2, 1.0]),
    wrong=st.sampled_from([None, np.nan, -np.nan, np.inf]),
    seed=st.integers(0, 999),
)
# Many small terms beside two large ones.
@example(count=2057, num_rows=1, num_values=1, special=0.2, wrong=None, seed=1)
def test_the_host_finds_the_same_tokens_by_the_devices_groups(
    device: ReusedDevice,
    count: int,
    num_rows: int,
    num_values: int,
    special: float,
    wrong: float | None,
    seed: int,
) -> None:
    """Many equal logits, some ruled out, some that are no numbers; of equals the lowest token comes first."""
    rng = np.random.default_rng(seed)
    op, rows = LogitGroups(count), num_rows + 1
    logits = (rng.integers(0, num_values, (rows, count)) * (20 / num_values) - 10).astype(np.float32)
    chosen = rng.random(logits.shape) < special
    logits[chosen] = rng.choice(np.array(SPECIAL, np.float32), int(chosen.sum()))
    if wrong is not None:
        logits[0, rng.integers(count)] = wrong
    arrays = {"logits": logits, LOGIT_GROUPS: np.full((rows, 2 * op.num_groups), 7, np.float32)}
    limits = limits_for(max_rows=rows, max_logit_rows=rows)
    wanted = tuple(range(num_rows))
    case = Case(limits, (op,), arrays, num_rows, rows, logit_rows=wanted, max_logit_rows=rows)
    found, expected = device.run(case)[LOGIT_GROUPS], case.run(NumpyDevice(limits))[LOGIT_GROUPS]
    assert (found[num_rows:] == 7).all()  # a row without logits
    np.testing.assert_array_equal(found[:, : op.num_groups], expected[:, : op.num_groups])
    np.testing.assert_allclose(found, expected, rtol=SUM_ERROR / 2)
    for row, groups in zip(logits[:num_rows], found.reshape(rows, 2, op.num_groups), strict=False):
        for number in (1, 5, 70, count):
            assert likeliest(row, number, groups[0]).tolist() == likeliest(row, number).tolist()
        total, exact = log_sum_of_groups(*groups), exact_log_sum(row)
        if math.isfinite(exact):
            assert abs(math.expm1(total - exact)) < SUM_ERROR
        else:
            assert np.array_equal([total], [exact], equal_nan=True)
