"""Rows of prompts in float32 and by matrices of float16: which of the two a device should compute what by."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tplaunch.worker.device import ByMatrices, DeviceError
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan.measuring.trials import Asks, Size, Trial, limits_of, make_trial, num_weights_of

FLOATS, MATRICES = "f32", "f16"
ADVANTAGE = 0.95  # of the time in float32, to be worth what float16 rounds
Seconds = dict[str, float]  # of an op, by how it is computed


@dataclass(frozen=True)
class Rivals:
    """Trials of one op, by how it is computed; a step has so many times as much like it."""

    name: str  # of the measurement
    trials: dict[str, Trial]
    times: float


def preferred(
    programs: Sequence[Program],
    prove: Callable[[Sequence[Program]], Sequence[str]],
    win: Callable[[Sequence[Program]], bool],
) -> tuple[ByMatrices, list[str]]:
    """Tells what of programs that have all by matrices should have it so: products, attention, or both.

    Each is proved to be right first; of one that is not, or fails, a sentence comes back.
    """
    notes: list[str] = []

    def wins(part: Sequence[Program], told: str) -> bool:
        if not _ops(part):
            return False
        try:
            notes.extend(prove(part))
            return win(part)
        except DeviceError as error:
            notes.append(f"prompts {told} in float32: {error}")
            return False

    products = wins(_only(programs, lambda op: not isinstance(op, Attention)), "are multiplied")
    return ByMatrices(products, wins(_only(programs, _attends), "attend")), notes


def _only(programs: Iterable[Program], belongs: Callable[[Op], bool]) -> list[Program]:
    """The programs with these ops alone."""
    return [
        dataclasses.replace(program, segments=(Segment(tuple(filter(belongs, _ops([program]))), None),))
        for program in programs
    ]


def _ops(programs: Iterable[Program]) -> list[Op]:
    return [op for program in programs for segment in program.segments for op in segment.ops]


def _attends(op: Op) -> TypeGuard[Attention]:
    return isinstance(op, Attention) and op.activations == MATRICES


def all_rivals(programs: Iterable[Program], kv_type: str, size: Size, asks: Asks) -> list[Rivals]:
    """The largest product of each weight type that the programs multiply by matrices, and each attention."""
    largest: dict[str, MatMul] = {}
    num_weights = Counter[str]()
    attentions = Counter[Attention]()
    for op in _ops(programs):
        if isinstance(op, MatMul) and op.activations == MATRICES:
            kind, weights = op.matrix.type, num_weights_of(op)
            num_weights[kind] += weights
            if kind not in largest or weights > num_weights_of(largest[kind]):
                largest[kind] = op
        elif _attends(op):
            attentions[_whole(op)] += 1
    rows, of_products = size.prompt_rows, []
    for kind, op in largest.items():
        trials = _trials(op, kv_type, size, asks)
        tried = trials[MATRICES].op
        assert isinstance(tried, MatMul)
        name = f"prompts {kind} {tried.matrix.rows} x {tried.matrix.columns}, {rows} rows"
        of_products.append(Rivals(name, trials, num_weights[kind] / num_weights_of(tried)))
    return of_products + [
        Rivals(_name(op, kv_type, rows), _trials(op, kv_type, size, asks), times)
        for op, times in attentions.items()
    ]


def _whole(op: Attention) -> Attention:
    """The same attention in any layer, over all keys: windows are not timed."""
    value_cache = "keys" if op.value_in_key else "values"
    return dataclasses.replace(
        op, key_cache="keys", value_cache=value_cache, window=0, chunked=False, finish=None
    )


def _name(op: Attention, kv_type: str, rows: int) -> str:
    heads = f"{op.num_heads} heads of {op.key_length} and {op.value_length}, {op.num_kv_heads} of keys"
    return f"prompts attention {heads} in {kv_type}, {rows} rows"


def _trials(op: MatMul | Attention, kv_type: str, size: Size, asks: Asks) -> dict[str, Trial]:
    """The same op in float32 and by matrices."""
    limits = limits_of(size.prompt_rows, kv_type)
    trials = {}
    for activations in (FLOATS, MATRICES):
        asked: Op = dataclasses.replace(op, activations=activations)
        if isinstance(asked, MatMul):
            asked = dataclasses.replace(asked, of_prompts=True)
        ((family, _),) = asks(asked, limits)
        trials[activations] = make_trial(family, family, asked, limits, size)
    return trials


def matrices_win(rivals: Iterable[Rivals], measure: Callable[[Rivals], Seconds]) -> bool:
    """Tells if a step takes less time by matrices; it does not where one was not measured, or none is."""
    sums = {FLOATS: 0.0, MATRICES: 0.0}
    for each in rivals:
        seconds = measure(each)
        if seconds.keys() < sums.keys():
            return False
        for kind in sums:
            sums[kind] += seconds[kind] * each.times
    return sums[MATRICES] < ADVANTAGE * sums[FLOATS]
