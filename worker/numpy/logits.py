"""Finds the highest logits of groups with NumPy: what shaders/logit_groups.slang does."""

from __future__ import annotations

import numpy as np

from tplaunch.coordinator.likeliest import group_maxima, group_sums
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.logits import LOGIT_GROUPS, LogitGroups


def logit_groups(op: LogitGroups, state: NumpyState) -> None:
    num_rows = state.num_rows("logit_rows")
    logits = state.bytes["logits"].view(np.float32)[: num_rows * op.count].reshape(num_rows, op.count)
    found = state.bytes[LOGIT_GROUPS].view(np.float32)[: num_rows * 2 * op.num_groups]
    for row, groups in zip(logits, found.reshape(num_rows, 2, op.num_groups), strict=True):
        groups[0] = group_maxima(row)
        groups[1] = group_sums(row, groups[0])
