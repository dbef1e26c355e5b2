"""Quants of four bits that stand for 16 uneven values: IQ4_NL, IQ4_XS, MXFP4 and NVFP4.

The values are looked up as bytes, which is one instruction of most processors.
"""

from __future__ import annotations

from typing import Any

from numba import float32

from tplaunch.worker.cpu.kernels.formats.base import Weights, inlined, widen_scales
from tplaunch.worker.cpu.kernels.quants import (
    float_of,
    looked_up,
    lower_halves,
    of_words,
    upper_halves,
)
from tplaunch.worker.cpu.kernels.vectors import (
    byte,
    from_signed,
    load_bytes,
    masked,
    number,
    put,
    right,
    signed_byte,
    spread,
    times,
)
from tplaunch.worker.formats.float4 import E2M1, NONLINEAR


def _packed(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns 16 signed bytes as four words."""
    data = bytes(value & 255 for value in values)
    first, second, third, fourth = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8, 12))
    return first, second, third, fourth


NONLINEAR_WORDS, E2M1_WORDS = _packed(NONLINEAR), _packed(E2M1)


@inlined
def _values(table: Any, quants: Any, scale: Any) -> Any:
    """Returns what quants stand for, times a scale."""
    return times(from_signed(looked_up(table, quants)), scale)


@inlined
def _nonlinear() -> Any:
    return of_words(NONLINEAR_WORDS[0], NONLINEAR_WORDS[1], NONLINEAR_WORDS[2], NONLINEAR_WORDS[3])


@inlined
def _e2m1() -> Any:
    return of_words(E2M1_WORDS[0], E2M1_WORDS[1], E2M1_WORDS[2], E2M1_WORDS[3])


@inlined
def _iq4_nl_scales(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    widen_scales(held + 2 * tile, count, scales)


@inlined
def iq4_nl(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Blocks of 32 with a float16 scale."""
    scale, both, table = (
        spread(number(scales + 4 * part)),
        load_bytes(quants + 16 * (tile + part)),
        _nonlinear(),
    )
    return _values(table, masked(both, 15), scale), _values(table, right(both, 4), scale)


@inlined
def _iq4_xs_scales(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    """Signed bytes, in units of a float32."""
    held = held + 12 * tile
    unit = number(held + 8)
    for part in range(8):
        put(scales + 4 * part, unit * float32(signed_byte(held + part)))


@inlined
def iq4_xs(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Blocks of 256 with a scale for each 32."""
    scale, both, table = (
        spread(number(scales + 4 * part)),
        load_bytes(quants + 128 * tile + 16 * part),
        _nonlinear(),
    )
    return _values(table, masked(both, 15), scale), _values(table, right(both, 4), scale)


@inlined
def _mxfp4_scales(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    """Exponents; half of the least two of these are below float32's normal numbers."""
    for part in range(count):
        exponent = byte(held + tile + part)
        bits = (exponent - 1) << 23 if exponent > 1 else 0x200000 << exponent
        put(scales + 4 * part, float_of(bits))


@inlined
def mxfp4(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Blocks of 32 with an exponent."""
    scale, both, table = spread(number(scales + 4 * part)), load_bytes(quants + 16 * (tile + part)), _e2m1()
    return _values(table, masked(both, 15), scale), _values(table, right(both, 4), scale)


@inlined
def _half_e4m3(code: int) -> Any:
    """Returns half of an E4M3 without its sign; one NaN counts as 0."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if code == 0x7F:
        bits = 0
    elif exponent > 0:
        bits = (exponent + 119) << 23 | mantissa << 20
    else:
        bits = 0
    found = float_of(bits)
    if exponent == 0:
        found = float_of(117 << 23) * float(mantissa)  # 2^-10 of them
    return found


@inlined
def _nvfp4_scales(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    """A byte for each 16 weights."""
    for index in range(2 * count):
        put(scales + 4 * index, _half_e4m3(byte(held + 4 * tile + index)))


@inlined
def nvfp4(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Blocks of 64 with a scale for each 16, whose quants are the halves of eight bytes."""
    both, table = load_bytes(quants + 32 * tile + 16 * part), _e2m1()
    low, high = masked(both, 15), right(both, 4)
    first, second = spread(number(scales + 8 * part)), spread(number(scales + 8 * part + 4))
    return _values(table, lower_halves(low, high), first), _values(table, upper_halves(low, high), second)


WEIGHTS = {
    "IQ4_NL": Weights(iq4_nl, _iq4_nl_scales),
    "IQ4_XS": Weights(iq4_xs, _iq4_xs_scales),
    "MXFP4": Weights(mxfp4, _mxfp4_scales),
    "NVFP4": Weights(nvfp4, _nvfp4_scales),
}
