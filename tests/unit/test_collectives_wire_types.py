"""Tests the types in which sums travel: rounding to nearest, any count, numbers that are not finite."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.collectives.wire_types import BLOCK, WIRE_TYPES, WireType

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def there(kind: WireType, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns what a peer reads of values, having got them in the type's bytes."""
    payload = bytes(kind.encode(values))
    assert len(payload) == kind.num_bytes(values.size)
    read = np.full(values.size, 7, np.float32)
    kind.decode(payload, read)
    np.testing.assert_array_equal(kind.numbers(payload, values.size), read)
    return read


@pytest.mark.parametrize("name", WIRE_TYPES)
@given(st.lists(FINITE, max_size=3 * BLOCK))
def test_what_was_rounded_once_is_not_rounded_again(name: str, numbers: list[float]) -> None:
    """So a rank that goes on with what its peers read has what they have."""
    kind = WIRE_TYPES[name]
    values = np.array(numbers, np.float32)
    once = there(kind, values)
    assert name != "f32" or once.tobytes() == values.tobytes()
    if name != "q8":
        assert there(kind, once).tobytes() == once.tobytes()


@given(st.lists(FINITE, min_size=1, max_size=200))
def test_bf16_is_the_nearest(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    read = there(WIRE_TYPES["bf16"], values).astype(np.float64)
    words = values.view(np.uint32) & np.uint32(0xFFFF0000)
    with np.errstate(over="ignore"):
        below = words.view(np.float32).astype(np.float64)
        above = (words + np.uint32(0x10000)).view(np.float32).astype(np.float64)
    best = np.minimum(abs(values - below), abs(values - above))
    finite = np.isfinite(above)
    np.testing.assert_array_equal(abs(values - read)[finite], best[finite])


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=3 * BLOCK))
def test_q8_is_within_half_a_quant(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    read = there(WIRE_TYPES["q8"], values)
    for start in range(0, len(values), BLOCK):
        block, found = values[start : start + BLOCK].astype(np.float64), read[start : start + BLOCK]
        scale = abs(block).max() / 127 * (1 + 2**-7)  # rounded up to a bfloat16
        assert abs(block - found).max() <= scale / 2 * 1.0001 + 1e-37


@pytest.mark.parametrize("name", ["bf16", "q8"])
def test_numbers_that_are_not_finite_stay_so(name: str) -> None:
    values = np.linspace(-1, 1, 2 * BLOCK, dtype=np.float32)
    values[[1, 2, 3]] = np.nan, np.inf, -np.inf
    values[4] = np.float32(np.frombuffer(b"\xff\xff\xff\x7f", np.float32)[0])  # a NaN that rounding up ends
    read = there(WIRE_TYPES[name], values)
    assert not np.isfinite(read[1:5]).any()
    assert np.isfinite(read[BLOCK:]).all()


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3.4e38])
def test_q8_of_extremes(value: float) -> None:
    read = there(WIRE_TYPES["q8"], np.full(BLOCK, value, np.float32))
    np.testing.assert_allclose(read, value, rtol=0.01, atol=1e-36)


def test_ties_go_to_even() -> None:
    values = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert there(WIRE_TYPES["bf16"], values).view(np.uint32).tolist() == [0x3F800000, 0x3F820000]
