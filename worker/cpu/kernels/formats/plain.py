"""F32, F16 and BF16."""

from __future__ import annotations

from typing import Any

from tplaunch.worker.cpu.kernels.formats.base import Weights, inlined
from tplaunch.worker.cpu.kernels.vectors import load, load_bfloats, load_halves


@inlined
def f32(values: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Returns float32 as they are."""
    at = values + 128 * (tile + part)
    return load(at), load(at + 64)


@inlined
def f16(values: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Widens float16."""
    at = values + 64 * (tile + part)
    return load_halves(at), load_halves(at + 32)


@inlined
def bf16(values: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Widens bfloat16."""
    at = values + 64 * (tile + part)
    return load_bfloats(at), load_bfloats(at + 32)


WEIGHTS = {"F32": Weights(f32), "F16": Weights(f16), "BF16": Weights(bf16)}
