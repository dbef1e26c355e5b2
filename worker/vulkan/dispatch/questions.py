"""Asks the dispatcher what it would run: which kernel for an op, and from which family it chooses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.ops.common import Op
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import PartialsLayout, Selects
from tplaunch.worker.vulkan.dispatch.table import dispatch
from tplaunch.worker.vulkan.memory import Slice
from tplaunch.worker.vulkan.variants import Always, Variant, candidates

SOME_PARTIALS, NOWHERE = PartialsLayout(0, 1, 1, 0, 0), Slice(0, 0)


@dataclass(frozen=True)
class Asked:
    """The kernel that runs an op where a family's preferred variant is chosen."""

    kernel: str
    family: str | None  # None where there is nothing to choose
    matrix_rows: int  # by which it is chosen too
    kernel_of: Callable[[Variant], str]  # the same op's kernel with another variant


def ask(
    op: Op,
    limits: Limits,
    features: Collection[str],
    max_subgroup_size: int,
    max_invocations: int,
    team_lanes: int = 0,
) -> Asked:
    """Asks the dispatcher for an op's kernel in a program of limits.max_rows rows.

    The op's buffers make no difference to it.
    """

    def kernel(selection: Selects) -> str:
        program, sizes = Program(limits.max_rows, limits.max_rows, ()), (max_subgroup_size, max_invocations)
        context = DispatchContext(
            program, lambda name: NOWHERE, SOME_PARTIALS, limits, *sizes, selection, team_lanes
        )
        return dispatch(op, context).kernel

    questions = _Questions(features)
    preferred = kernel(questions)
    return Asked(preferred, questions.family, questions.matrix_rows, lambda variant: kernel(Always(variant)))


class _Questions:
    """Answers with what is preferred, and keeps the question: an op asks one at most."""

    def __init__(self, features: Collection[str]) -> None:
        self._features = features
        self.family: str | None = None
        self.matrix_rows = 0

    def variant(
        self, family: str, matrix_rows: int = 0, matrix_columns: int = 0, program_rows: int = 0
    ) -> Variant:
        assert self.family is None, f"an op chooses from {self.family} and from {family}"
        self.family, self.matrix_rows = family, matrix_rows
        return candidates(family, self._features)[0]
