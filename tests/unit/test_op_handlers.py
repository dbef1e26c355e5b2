"""Ops are listed once; a device that forgets one does not import."""

from __future__ import annotations

from types import ModuleType

import pytest

from tplaunch.worker.numpy import attention, experts, heads, latent, products, recurrent, rows
from tplaunch.worker.numpy.device import RUN
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.handlers import OPS, by_op
from tplaunch.worker.ops.recurrent import Recurrence

MODULES = (attention, experts, heads, latent, products, recurrent, rows)


def test_every_op_is_run_by_what_bears_its_name() -> None:
    assert set(RUN) == set(OPS) and len(OPS) > 20
    assert {op.__name__.lower() for op in OPS} == {run.__name__.replace("_", "") for run in RUN.values()}
    assert RUN[Recurrence] is recurrent.recurrence  # an op of a union within the union


@pytest.mark.parametrize("left_out", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_forgotten_op_is_an_error_at_import(left_out: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"nothing runs [A-Z]"):
        by_op(NumpyState, *(module for module in MODULES if module is not left_out))


def test_an_op_with_two_ways_is_an_error_at_import() -> None:
    def another(op: MatMul, state: NumpyState) -> None:
        """Does what another function does already."""

    module = ModuleType(__name__)
    module.another = another  # type: ignore[attr-defined]
    another.__annotations__ = {"op": MatMul, "state": NumpyState, "return": None}
    with pytest.raises(TypeError, match="MatMul is run by both matmul and another"):
        by_op(NumpyState, *MODULES, module)
