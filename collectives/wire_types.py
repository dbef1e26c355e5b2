"""The types in which sums travel between hosts: float32 as they are, or rounded to fewer bytes.

What is sent is rounded once, and the sender goes on with what its peers read: all have the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Payload: TypeAlias = "bytes | memoryview"

BLOCK = 64  # float32 that share a scale in q8; what one message carries ends with a block, or with the sum
_MAX_QUANT = 127
_SCALE_BYTES = 2
_SMALLEST, _INFINITE, _NAN = 0x0080, 0x7F80, 0x7FC0  # bfloat16 whose inverse is finite, and not numbers


class WireType(ABC):
    """How float32 numbers are laid in a message. A singleton: see WIRE_TYPES."""

    name: str
    number: int  # in a message's header

    rounds = True

    @abstractmethod
    def num_bytes(self, count: int) -> int:
        """Returns the bytes of so many numbers."""

    @abstractmethod
    def encode(self, values: Floats) -> Payload:
        """Returns the numbers [count] as bytes, rounded to nearest. It may be the memory of the values."""

    @abstractmethod
    def decode(self, payload: Payload, values: Floats) -> None:
        """Fills values [count] from num_bytes(count) bytes."""

    def numbers(self, payload: Payload, count: int) -> Floats:
        """Returns the numbers [count]. They may be the memory of the payload."""
        values = np.empty(count, np.float32)
        self.decode(payload, values)
        return values


class Float32(WireType):
    """The numbers as they are."""

    name, number, rounds = "f32", 0, False

    def num_bytes(self, count: int) -> int:
        return 4 * count

    def encode(self, values: Floats) -> Payload:
        return values.data

    def decode(self, payload: Payload, values: Floats) -> None:
        values[:] = np.frombuffer(payload, np.float32)

    def numbers(self, payload: Payload, count: int) -> Floats:
        return np.frombuffer(payload, np.float32, count)


class BFloat16(WireType):
    """The upper half of a float32, rounded to nearest, ties to even."""

    name, number = "bf16", 1

    def num_bytes(self, count: int) -> int:
        return 2 * count

    def encode(self, values: Floats) -> Payload:
        return to_bfloat16(values).tobytes()

    def decode(self, payload: Payload, values: Floats) -> None:
        np.left_shift(np.frombuffer(payload, np.uint16), 16, out=values.view(np.uint32), dtype=np.uint32)


class Q8(WireType):
    """Blocks of 64 numbers as bytes from -127 to 127 and a bfloat16 scale: all scales, then all quants.

    A scale is rounded up, so that the block's largest number keeps its place. Where a block holds a number
    that is not finite, all its numbers are NaN at the other end: the sum is spoilt either way.
    """

    name, number = "q8", 2

    def num_bytes(self, count: int) -> int:
        return count + _SCALE_BYTES * _num_blocks(count)

    def encode(self, values: Floats) -> Payload:
        blocks = values.reshape(-1, BLOCK) if values.size % BLOCK == 0 else _padded(values)
        scales = _rounded_up(np.divide(np.abs(blocks).max(axis=1), np.float32(_MAX_QUANT)))
        usual = (scales >= _SMALLEST) & (scales < _INFINITE)
        if usual.all():
            quants = blocks * (np.float32(1) / _widened(scales))[:, None]
        else:
            scales[scales < _SMALLEST], scales[scales >= _INFINITE] = 0, _NAN
            quants = np.zeros_like(blocks)
            quants[usual] = blocks[usual] / _widened(scales[usual])[:, None]
        np.rint(quants, out=quants)
        sent = quants.astype(np.int8).reshape(-1)[: values.size]
        return b"".join((scales.data, sent.data))

    def decode(self, payload: Payload, values: Floats) -> None:
        num_blocks = _num_blocks(values.size)
        scales = _widened(np.frombuffer(payload, np.uint16, num_blocks))
        quants = np.frombuffer(payload, np.int8, values.size, _SCALE_BYTES * num_blocks)
        if values.size % BLOCK == 0:
            np.multiply(quants.reshape(-1, BLOCK), scales[:, None], out=values.reshape(-1, BLOCK))
        else:
            np.multiply(quants, np.repeat(scales, BLOCK)[: values.size], out=values)


WIRE_TYPES: dict[str, WireType] = {kind.name: kind for kind in (Float32(), BFloat16(), Q8())}
WIRE_NAMES = {kind.number: name for name, kind in WIRE_TYPES.items()}
EXACT = WIRE_TYPES["f32"]


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Rounds to nearest, ties to even; NaN stays NaN."""
    words = values.view(np.uint32)
    odd = (words >> np.uint32(16)) & np.uint32(1)
    rounded = ((words + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)).astype(np.uint16)
    missing = np.isnan(values)
    if missing.any():
        rounded[missing] = _NAN
    return rounded


def _rounded_up(values: Floats) -> NDArray[np.uint16]:
    """Returns bfloat16 that are not smaller; none is negative. Infinity and NaN stay what is no number."""
    return (np.minimum(values.view(np.uint32), 0x7F800000) + np.uint32(0xFFFF) >> np.uint32(16)).astype(
        np.uint16
    )


def _widened(halves: NDArray[np.uint16]) -> Floats:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _padded(values: Floats) -> Floats:
    """Returns whole blocks [blocks, BLOCK], the last one filled up with zeros."""
    blocks = np.zeros(_num_blocks(values.size) * BLOCK, np.float32)
    blocks[: values.size] = values
    return blocks.reshape(-1, BLOCK)


def _num_blocks(count: int) -> int:
    return -(-count // BLOCK)
