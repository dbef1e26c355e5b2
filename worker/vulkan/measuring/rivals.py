"""Rows of prompts in float32 and rounded: which of the two a device should compute by."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.experts import ExpertMatMul, Route
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.measuring.expert_trials import cut_experts
from tplaunch.worker.vulkan.measuring.trials import (
    KEYS,
    Asks,
    Size,
    Trial,
    limits_of,
    make_trial,
    num_weights_of,
)

FLOATS = "f32"
MANY_KEYS = 4096  # beside KEYS: of a long prompt's rows, where the context has as many
ADVANTAGE = 0.95  # of the time in float32, to be worth what is rounded
Seconds = dict[str, float]  # of an op, by how it is computed


@dataclass(frozen=True)
class Rivals:
    """Trials of one op, by how it is computed; a step has so many times as much like it."""

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


def key_counts(context_length: int) -> list[int]:
    """Returns over how many keys attention is compared: over each it has to be faster."""
    return [KEYS] if context_length <= KEYS else [KEYS, min(MANY_KEYS, -(-context_length // 32) * 32)]


def all_rivals(
    programs: Iterable[Program], kv_type: str, size: Size, asks: Asks, keys: int = KEYS
) -> list[Rivals]:
    """The largest products of rounded rows of prompts, of each weight type a dense one and experts'.

    Behind them attention by matrices, of each kind of heads, over so many keys.
    """
    largest: dict[tuple[str, bool], Rounded] = {}
    num_weights: dict[tuple[str, bool], int] = {}
    programs = list(programs)
    for product in (product for program in programs for product in _rounded(program)):
        kind, weights = product.kind, num_weights_of(product.op)
        num_weights[kind] = num_weights.get(kind, 0) + weights
        if kind not in largest or weights > num_weights_of(largest[kind].op):
            largest[kind] = product
    products = [_rivals(product, num_weights[kind], kv_type, size, asks) for kind, product in largest.items()]
    attentions = Counter(_whole(op) for program in programs for op in ops_of(program) if attends(op))
    return products + [_attention(op, times, kv_type, size, asks, keys) for op, times in attentions.items()]


def ops_of(program: Program) -> list[Op]:
    """All ops of a program."""
    return [op for segment in program.segments for op in segment.ops]


def attends(op: Op) -> TypeGuard[Attention]:
    """Tells if an op is attention by matrices."""
    return isinstance(op, Attention) and op.activations != FLOATS


def _whole(op: Attention) -> Attention:
    """The same attention in any layer, over all keys: windows are not timed."""
    value_cache = "keys" if op.value_in_key else "values"
    return dataclasses.replace(
        op, key_cache="keys", value_cache=value_cache, window=0, chunked=False, finish=None
    )


def _rounded(program: Program) -> Iterator[Rounded]:
    share = 1.0
    for op in ops_of(program):
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
    trials = _trials(op, rows, kv_type, size, asks)
    tried = trials[op.activations].op
    assert isinstance(tried, MatMul | ExpertMatMul)
    matrix = tried.matrix
    name = f"prompts {op.activations} {matrix.type} {experts}{matrix.rows} x {matrix.columns}, {rows} rows"
    return Rivals(name, trials, num_weights / num_weights_of(tried))


def _attention(op: Attention, times: int, kv_type: str, size: Size, asks: Asks, keys: int) -> Rivals:
    rows = size.prompt_rows
    heads = f"{op.num_heads} heads of {op.key_length} and {op.value_length}, {op.num_kv_heads} of keys"
    name = f"prompts attention {heads} in {kv_type}, {rows} rows, {keys} keys"
    return Rivals(name, _trials(op, rows, kv_type, size, asks, keys), times)


def _trials(
    op: MatMul | ExpertMatMul | Attention, rows: int, kv_type: str, size: Size, asks: Asks, keys: int = KEYS
) -> dict[str, Trial]:
    """The same op in float32 and rounded."""
    limits, trials = limits_of(rows, kv_type, keys), {}
    for activations in (FLOATS, op.activations):
        asked = dataclasses.replace(op, activations=activations)
        ((family, _),) = asks(asked, limits)
        trials[activations] = make_trial(family, family, asked, limits, size)
    return trials


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
