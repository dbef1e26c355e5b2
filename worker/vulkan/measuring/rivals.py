"""Products of prompts in float32 and rounded: which of the two a device should multiply by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.programs.program import Program
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


def all_rivals(programs: Iterable[Program], kv_type: str, size: Size, asks: Asks) -> list[Rivals]:
    """The largest product of each weight type of which the programs multiply rounded rows of prompts."""
    largest: dict[str, MatMul] = {}
    num_weights: dict[str, int] = {}
    for op in (op for program in programs for segment in program.segments for op in segment.ops):
        if isinstance(op, MatMul) and op.of_prompts and op.activations != FLOATS:
            kind, weights = op.matrix.type, num_weights_of(op)
            num_weights[kind] = num_weights.get(kind, 0) + weights
            if kind not in largest or weights > num_weights_of(largest[kind]):
                largest[kind] = op
    return [_rivals(op, num_weights[kind], kv_type, size, asks) for kind, op in largest.items()]


def _rivals(op: MatMul, num_weights: int, kv_type: str, size: Size, asks: Asks) -> Rivals:
    limits = limits_of(size.prompt_rows, kv_type)
    trials = {}
    for activations in (FLOATS, op.activations):
        asked = dataclasses.replace(op, activations=activations)
        ((family, _),) = asks(asked, limits)
        trials[activations] = make_trial(family, family, asked, limits, size)
    tried = trials[op.activations].op
    assert isinstance(tried, MatMul)
    matrix = tried.matrix
    name = f"prompts {op.activations} {matrix.type} {matrix.rows} x {matrix.columns}, {size.prompt_rows} rows"
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
