"""Asks the dispatcher what it would run: which kernel for an op, and from which family it chooses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.ops.common import Op
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import PartialsLayout
from tplaunch.worker.vulkan.dispatch.table import dispatch
from tplaunch.worker.vulkan.memory import Slice
from tplaunch.worker.vulkan.variants import Variant, candidates

SOME_PARTIALS, NOWHERE = PartialsLayout(0, 1, 1, 0, 0), Slice(0, 0)


@dataclass(frozen=True)
class Asked:
    """The kernel that runs an op where a family's preferred variant is chosen."""

    kernel: str
    family: str | None  # None where there is nothing to choose
    matrix_rows: int = 0  # by which it is chosen too
    suffix: str = ""  # of the preferred variant

    def kernel_of(self, variant: Variant) -> str:
        """The same op's kernel with another variant."""
        return self.kernel.removesuffix(self.suffix) + variant.suffix


def ask(
    op: Op,
    limits: Limits,
    features: Collection[str],
    max_subgroup_size: int,
    max_invocations: int,
    matrix_size: int,
) -> Asked:
    """Asks the dispatcher for an op's kernel in a program of limits.max_rows rows.

    The op's buffers make no difference to it.

    For which buffers makes no difference to it.
    """
    questions = _Questions(features)
    program = Program(limits.max_rows, limits.max_rows, ())
    sizes = max_subgroup_size, max_invocations
    context = DispatchContext(
        program, lambda name: NOWHERE, SOME_PARTIALS, limits, *sizes, questions, matrix_size
    )
    kernel = dispatch(op, context).kernel
    if questions.family is None:
        return Asked(kernel, None)
    suffix = candidates(questions.family, features)[0].suffix
    return Asked(kernel, questions.family, questions.matrix_rows, suffix)


class _Questions:
    """Answers with what is preferred, and keeps the question: an op asks one at most."""

    def __init__(self, features: Collection[str]) -> None:
        self._features = features
        self.family: str | None = None
        self.matrix_rows = 0

    def offers(self, family: str) -> bool:
        return bool(candidates(family, self._features))

    def variant(self, family: str, matrix_rows: int = 0) -> Variant:
        assert self.family is None, f"an op chooses from {self.family} and from {family}"
        self.family, self.matrix_rows = family, matrix_rows
        return candidates(family, self._features)[0]
