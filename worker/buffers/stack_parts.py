"""Cuts stacks that are larger than a buffer may be into several, by rows or by experts.

A part is a stack like any other, with its own part of biases and scales; the parts of NAME are called NAME@0,
NAME@1 and so on. A product with NAME is then a product with each, side by side in the output: every column's
sum is what it was. Gates and ups that are multiplied together are cut alike.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

from tplaunch.coordinator.split.plan import Span
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.stacks import (
    EXPERTS_GATE_UP,
    GATE_UP,
    QKV,
    RECURRENT_INPUTS,
    SHARED_GATE_UP,
    Stack,
)
from tplaunch.worker.formats import FORMATS

WHOLE = 1 << 62  # bytes of a buffer where nothing needs to be cut
REACH = (1 << 32) - (1 << 20)  # bytes that kernels can count in 32 bits: WideWords of shaders/weights.slang
ROWS_APART = 128  # parts begin at multiples of so many rows where they have as many: no tile is cut
PAIRED = (*GATE_UP, *SHARED_GATE_UP, *EXPERTS_GATE_UP)
# The tensors that nothing but products read.
CUT = (
    *QKV,
    *PAIRED,
    *RECURRENT_INPUTS,
    *("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output", "ssm_out", "in_proj", "out_proj"),
    *("ffn_down", "ffn_down_shexp", "ffn_down_exps", "output"),
)
VECTORS = (".bias", ".scale")


def part_names(stacks: Mapping[str, Stack], tensor: str) -> list[str]:
    """Returns a tensor's parts in order, without ".weight": itself where it is whole."""
    if tensor + ".weight" in stacks:
        return [tensor]
    names = (f"{tensor}@{number}" for number in itertools.count())
    return list(itertools.takewhile(lambda name: name + ".weight" in stacks, names))


def in_parts(stacks: Mapping[str, Stack], most: int) -> dict[str, Stack]:
    """Returns the same stacks, of which none is larger than `most` bytes that can be cut."""
    found = dict(stacks)
    for name, stack in stacks.items():
        if stack.nbytes <= most or not name.endswith(".weight") or not _is_product(stack):
            continue
        tensor = name.removesuffix(".weight")
        cut = _experts_at_once if _has_experts(stack) else _rows_at_once
        at_once, count = cut(stack, most)
        if not 0 < at_once < count:
            continue  # not a single one fits, or a buffer without columns
        vectors = {suffix: found.pop(tensor + suffix) for suffix in VECTORS if tensor + suffix in stacks}
        del found[name]
        for number, start in enumerate(range(0, count, at_once)):
            span = Span(start, min(start + at_once, count))
            for suffix, whole in {".weight": stack, **vectors}.items():
                part = f"{tensor}@{number}{suffix}"
                found[part] = Stack(part, _part(whole, stack, span))
    return found


def _kinds(stack: Stack) -> list[str]:
    return stack.name.removesuffix(".weight").rpartition(".")[2].split("+")


def _is_product(stack: Stack) -> bool:
    return all(kind in CUT for kind in _kinds(stack))


def _has_experts(stack: Stack) -> bool:
    return stack.shards[0].expert_rows > 0


def _is_paired(stack: Stack) -> bool:
    """Tells if its two shards are gates and ups, of which a product takes one of each at once."""
    return len(_kinds(stack)) == 2 and all(kind in PAIRED for kind in _kinds(stack))


def _experts_at_once(stack: Stack, most: int) -> tuple[int, int]:
    """Experts of a part, and of all."""
    shards = stack.shards
    count = len(shards[0].experts)
    rows = sum(len(shard.rows) for shard in shards)  # of one expert
    return _even(lambda experts: _nbytes(stack, experts * rows) <= most, count, 1), count


def _rows_at_once(stack: Stack, most: int) -> tuple[int, int]:
    """Rows of a part, and of all; where gates and ups are paired, pairs of them."""
    each = 2 if _is_paired(stack) else 1
    count = stack.rows // each
    return _even(lambda rows: _nbytes(stack, rows * each) <= most, count, ROWS_APART), count


def _nbytes(stack: Stack, rows: int) -> int:
    return FORMATS[stack.type].nbytes(rows, stack.padded_columns)


def _even(fits: Callable[[int], bool], count: int, apart: int) -> int:
    """Returns how many go into a part, so that parts are few and about even; 0 where not one does."""
    most = bisect.bisect_left(range(1, count + 1), True, key=lambda number: not fits(number))
    if most > apart:
        most -= most % apart
    if most == 0:
        return 0
    even = -(-count // -(-count // most))
    return min(most, -(-even // apart) * apart)


def _part(whole: Stack, weights: Stack, span: Span) -> tuple[Shard, ...]:
    """Returns the shards of a part of a stack, or of the vectors that belong to these weights."""
    assert len(whole.shards) == len(weights.shards), f"{whole.name} is not like {weights.name}"
    parts = []
    first_row = 0
    for shard, rows in zip(whole.shards, weights.shards, strict=True):
        own = span
        if not _has_experts(weights) and not _is_paired(weights):
            own = _common(span, first_row, len(rows.rows))
            first_row += len(rows.rows)
        if len(own):
            parts.append(_cut(shard, own, whole, _has_experts(weights)))
    return tuple(parts)


def _common(span: Span, first: int, count: int) -> Span:
    """The part of a span that lies in `count` numbers from the first on, counted from that."""
    start = min(max(span.start - first, 0), count)
    return Span(start, max(start, min(span.stop - first, count)))


def _cut(shard: Shard, own: Span, stack: Stack, has_experts: bool) -> Shard:
    def within(span: Span) -> Span:
        return Span(span.start + own.start, span.start + own.stop)

    is_scale = stack.name.endswith(".scale")
    if has_experts and not is_scale:
        return replace(shard, experts=within(shard.experts))
    if is_scale and not has_experts:
        return replace(shard, repeats=len(own))
    if stack.is_vector:
        return replace(shard, columns=within(shard.columns))
    return replace(shard, rows=within(shard.rows))
