"""The parts in which a step has its rows' keys computed, as worker/buffers/cuts.py cuts them."""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from tplaunch.worker.buffers.cuts import CUT, HALF
from tplaunch.worker.cpu.kernels.vectors import unsigned
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


class Step(NamedTuple):
    """Addresses in the step buffer."""

    num_rows: int
    part_length: int
    short_cuts: int  # before which positions cuts are half as long, and a quarter
    positions: int
    slot_starts: int
    table_starts: int


@inlined
def position_of(step: Step, row: int) -> int:
    """Returns a row's position."""
    position: int = unsigned(step.positions + 4 * row)
    return position


@inlined
def cut_of(step: Step, row: int) -> int:
    """Returns the keys of a row's cuts."""
    position, cut = position_of(step, row), CUT
    if position < unsigned(step.short_cuts):
        cut //= HALF
    if position < unsigned(step.short_cuts + 4):
        cut //= HALF
    return cut


@inlined
def part_of(step: Step, row: int) -> int:
    """Returns the keys of a row's parts."""
    length: int = max(unsigned(step.part_length), cut_of(step, row))
    return length


@inlined
def slot_of(step: Step, row: int) -> int:
    """Returns the slot of a row's first part."""
    slot: int = unsigned(step.slot_starts + 4 * row)
    return slot
