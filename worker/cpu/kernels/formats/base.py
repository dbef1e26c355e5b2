"""The parts that the functions of several weight types share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import njit

from tplaunch.worker.cpu.integer_layout import PARTS
from tplaunch.worker.cpu.kernels.quants import bytes_minus, first_half, second_half, widen_eight_halves
from tplaunch.worker.cpu.kernels.vectors import from_signed, half, load_halves, put, store, times
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
Pair = Callable[..., tuple[Any, Any]]


@inlined
def nothing(p0: int, p1: int, p2: int, p3: int, tile: int, count: int, scales: int) -> None:
    """Prepares no scales."""


@dataclass(frozen=True)
class Weights:
    """The functions of a type: see kernels/formats/__init__.py."""

    pair: Pair
    prepare: Callable[..., None] = nothing


@inlined
def scaled(quants: Any, zero: int, scale: Any) -> Any:
    """Returns unsigned quants below 128 less the one that means 0, times their scales."""
    return times(from_signed(bytes_minus(quants, zero)), scale)


@inlined
def both_scaled(quants: Any, zero: int, scale: Any, other: Any) -> Any:
    """Does the same of 32 quants, the last 16 of which have another scale."""
    quants = bytes_minus(quants, zero)
    return times(from_signed(first_half(quants)), scale), times(from_signed(second_half(quants)), other)


@inlined
def widen_scales(held: int, count: int, scales: int) -> None:
    """Widens a float16 scale of each part."""
    if count == PARTS:
        widen_eight_halves(held, scales)
    else:
        for part in range(count):
            put(scales + 4 * part, half(held + 2 * part))


@inlined
def widen_pairs(held: int, count: int, scales: int) -> None:
    """Widens two float16 of each part."""
    if count == PARTS:
        store(scales, load_halves(held))
    else:
        for index in range(2 * count):
            put(scales + 4 * index, half(held + 2 * index))
