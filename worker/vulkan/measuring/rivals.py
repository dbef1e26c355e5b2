"""Products of prompts in float32 and rounded: which of the two a device should multiply by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.experts import ExpertMatMul, Route
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.measuring.expert_trials import cut_experts
from tplaunch.worker.vulkan.measuring.trials import Asks, Size, Trial, limits_of, make_trial, num_weights_of

FLOATS = "f32"
ADVANTAGE = 0.95  # of the time in float32, to be worth what is rounded
Seconds = dict[str, float]  # of a product, by how it is multiplied


@dataclass(frozen=True)
class Rivals:
    """Trials of one product, by how it is multiplied; a step has so many times as many weights like it."""

    name: str  # of the measurement
    trials: dict[str, Trial]
    times: float


@dataclass(frozen=True)
class Rounded:
    """A product of rounded rows of prompts."""

    op: MatMul | ExpertMatMul
    share: float = 1.0  # of a step's rows that one matrix gets: an expert's of them

    @property
    def kind(self) -> tuple[str, bool]:
        """Products of one kind are as fast, by the weight."""
        return self.op.matrix.type, isinstance(self.op, ExpertMatMul)


def all_rivals(programs: Iterable[Program], kv_type: str, size: Size, asks: Asks) -> list[Rivals]:
    """The largest products of rounded rows of prompts, of each weight type a dense one and experts'."""
    largest: dict[tuple[str, bool], Rounded] = {}
    num_weights: dict[tuple[str, bool], int] = {}
    for product in (product for program in programs for product in _rounded(program)):
        kind, weights = product.kind, num_weights_of(product.op)
        num_weights[kind] = num_weights.get(kind, 0) + weights
        if kind not in largest or weights > num_weights_of(largest[kind].op):
            largest[kind] = product
    return [_rivals(product, num_weights[kind], kv_type, size, asks) for kind, product in largest.items()]


def _rounded(program: Program) -> Iterator[Rounded]:
    share = 1.0
    for op in (op for segment in program.segments for op in segment.ops):
        if isinstance(op, Route):  # of the experts that come next
            share = op.used / op.count
        if isinstance(op, MatMul) and op.of_prompts and op.activations != FLOATS:
            yield Rounded(op)
        elif isinstance(op, ExpertMatMul) and op.activations != FLOATS:
            yield Rounded(op, share)


def _rivals(product: Rounded, num_weights: int, kv_type: str, size: Size, asks: Asks) -> Rivals:
    op, rows, experts = product.op, size.prompt_rows, ""
    if isinstance(op, ExpertMatMul):
        op, rows = cut_experts(op, product.share * size.prompt_rows, size.max_weights)
        experts = f"{op.held.count} experts, "
    limits = limits_of(rows, kv_type)
    trials = {}
    for activations in (FLOATS, op.activations):
        asked = dataclasses.replace(op, activations=activations)
        ((family, _),) = asks(asked, limits)
        trials[activations] = make_trial(family, family, asked, limits, size)
    tried = trials[op.activations].op
    assert isinstance(tried, MatMul | ExpertMatMul)
    matrix = tried.matrix
    name = f"prompts {op.activations} {matrix.type} {experts}{matrix.rows} x {matrix.columns}, {rows} rows"
    return Rivals(name, trials, num_weights / num_weights_of(tried))


def rounding_wins(rivals: Iterable[Rivals], measure: Callable[[Rivals], Seconds]) -> bool:
    """Tells if a step takes less time rounded; it does not where one was not measured, or none is."""
    floats = rounded = 0.0
    for each in rivals:
        seconds = dict(measure(each))
        of_floats = seconds.pop(FLOATS, None)
        if of_floats is None or not seconds:
            return False
        (of_rounded,) = seconds.values()
        floats, rounded = floats + of_floats * each.times, rounded + of_rounded * each.times
    return rounded < ADVANTAGE * floats
