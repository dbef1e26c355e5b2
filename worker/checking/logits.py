"""Checks of looking through logits."""

from __future__ import annotations

import numpy as np

from tplaunch.worker.checking.case import Arrays, Case, limits_for, random_floats
from tplaunch.worker.checking.check import Check
from tplaunch.worker.ops.logits import LOGIT_GROUPS, LogitGroups

COUNT = 70 * 64 + 5  # more groups than a workgroup has invocations, and logits that are left
ROWS, NUM_ROWS = 4, 3  # of the program, and of the step


def logit_groups(op: LogitGroups) -> LogitGroups:
    """The same op, small."""
    return LogitGroups(COUNT)


def check_logit_groups(op: LogitGroups) -> Check:
    logits = 4 * random_floats(np.random.default_rng(1), ROWS, op.count)
    logits[0, ::3] = -np.inf
    arrays: Arrays = {
        "logits": logits,
        LOGIT_GROUPS: np.zeros((ROWS, 2 * op.num_groups), np.float32),
    }
    limits = limits_for(max_rows=ROWS, max_logit_rows=ROWS)
    rows = tuple(range(NUM_ROWS))
    return Check(op, Case(limits, (op,), arrays, NUM_ROWS, ROWS, logit_rows=rows, max_logit_rows=ROWS))
