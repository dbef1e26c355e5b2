"""Repacked weights stand for the same numbers as GGUF's blocks, in aligned planes, in hardly more bytes."""

from __future__ import annotations

import itertools

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from coordinator.plan import padded
from coordinator.weight_types import WEIGHT_TYPES
from tests.models import Floats, examples
from worker.formats import FORMATS, PLANE_ALIGNMENT

Bytes = npt.NDArray[np.uint8]
BLOCKED = ("Q8_0", "Q4_0")
EXTREME_SCALES = np.array(
    [0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504, -65504, 1], np.float16
)  # subnormal to largest


def random_rows(weight_type: str, rows: int, columns: int, seed: int) -> Bytes:
    """Any valid rows of a file: every quant, and scales from subnormal to the largest, but finite."""
    random = np.random.default_rng(seed)
    if weight_type == "F32":
        exponents = random.integers(-126, 127, (rows, columns))
        values = np.ldexp(random.uniform(-1, 1, (rows, columns)), exponents).astype("<f4")
        return values.view(np.uint8).reshape(rows, -1)
    num_halves = columns if weight_type == "F16" else columns // 32
    halves = random.integers(0, 2**16, (rows, num_halves), np.uint16)
    halves[(halves & 0x7C00) == 0x7C00] &= 0x83FF  # no infinity, no NaN
    scales = halves.view(np.float16)
    scales[:, : EXTREME_SCALES.size] = EXTREME_SCALES[:num_halves]
    if weight_type == "F16":
        return scales.view(np.uint8).reshape(rows, -1)
    quants = random.integers(0, 256, (rows, num_halves, WEIGHT_TYPES[weight_type].block_bytes - 2), np.uint8)
    scale_bytes = scales.view(np.uint8).reshape(rows, num_halves, 2)
    return np.concatenate((scale_bytes, quants), axis=2).reshape(rows, -1)


def on_device(weight_type: str, planes: list[Bytes], rows: int, columns: int) -> list[Bytes]:
    """Planes as a device holds them: at their offsets in one buffer, with what lies between."""
    weight_format = FORMATS[weight_type]
    offsets = weight_format.plane_offsets(rows, columns)
    buffer = np.full(weight_format.nbytes(rows, columns), 0xAB, np.uint8)
    for plane, start in zip(planes, offsets, strict=False):
        buffer[start : start + plane.size] = plane
    return [buffer[start:stop] for start, stop in itertools.pairwise(offsets)]


def expected_values(weight_type: str, raw: Bytes) -> Floats:
    values: Floats = dequantize(raw, gguf.GGMLQuantizationType[weight_type])
    return values


@given(
    weight_type=st.sampled_from(sorted(WEIGHT_TYPES)),
    rows=st.integers(1, 6),
    columns=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
@examples(300)
def test_repacked_rows_stand_for_the_same_numbers(
    weight_type: str, rows: int, columns: int, seed: int
) -> None:
    if weight_type in BLOCKED:
        columns = padded(columns)
    raw = random_rows(weight_type, rows, columns, seed)
    assert raw.shape == (rows, WEIGHT_TYPES[weight_type].row_bytes(columns))
    planes = FORMATS[weight_type].repack(raw, padded(columns))
    for plane, tile_bytes in zip(planes, FORMATS[weight_type].plane_bytes, strict=True):
        assert plane.dtype == np.uint8
        assert plane.shape == (rows * padded(columns) // 32 * tile_bytes,)
    into = [np.full_like(plane, 0xAB) for plane in planes]
    FORMATS[weight_type].repack_into(into, raw, padded(columns))
    for written, plane in zip(into, planes, strict=True):
        np.testing.assert_array_equal(written, plane)
    held = on_device(weight_type, planes, rows, padded(columns))
    found = FORMATS[weight_type].dequantize(held, rows, padded(columns))
    np.testing.assert_array_equal(FORMATS[weight_type].widen(raw, columns), found[:, :columns])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :columns], expected_values(weight_type, raw))
    assert not found[:, columns:].any()


@pytest.mark.parametrize("weight_type", sorted(WEIGHT_TYPES))
def test_every_value_of_a_quant_is_kept(weight_type: str) -> None:
    if weight_type in BLOCKED:
        quants = np.arange(256, dtype=np.uint8).reshape(-1, WEIGHT_TYPES[weight_type].block_bytes - 2)
        scales = np.full((len(quants), 1), 0.5, "<f2").view(np.uint8)
        raw = np.concatenate((scales, quants), axis=1)
    elif weight_type == "F16":
        halves = np.arange(2**16, dtype="<u2")
        raw = halves[(halves & 0x7C00) != 0x7C00].reshape(-1, 32).view(np.uint8)
    else:
        raw = np.array([0, -0.0, 1e-45, -3.4e38, 3.4e38, 1] * 16, "<f4").reshape(-1, 32).view(np.uint8)
    planes = FORMATS[weight_type].repack(raw, 32)
    found = FORMATS[weight_type].dequantize(planes, len(raw), 32)
    expected = expected_values(weight_type, raw)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@given(st.sampled_from(sorted(WEIGHT_TYPES)), st.integers(0, 40), st.integers(0, 20))
@examples(100)
def test_planes_are_aligned_and_do_not_overlap(weight_type: str, rows: int, tiles: int) -> None:
    weight_format = FORMATS[weight_type]
    offsets = weight_format.plane_offsets(rows, 32 * tiles)
    assert offsets[0] == 0
    assert offsets[-1] == weight_format.nbytes(rows, 32 * tiles)
    assert all(offset % PLANE_ALIGNMENT == 0 for offset in offsets)
    for start, stop, tile_bytes in zip(offsets, offsets[1:], weight_format.plane_bytes, strict=False):
        assert 0 <= stop - start - rows * tiles * tile_bytes < PLANE_ALIGNMENT
        assert tile_bytes * 8 % 16 == 0
    empty = weight_format.dequantize(on_device(weight_type, [], rows, 0), rows, 0)
    assert empty.shape == (rows, 0)


@pytest.mark.parametrize("weight_type", sorted(WEIGHT_TYPES))
@pytest.mark.parametrize(
    ("rows", "columns"), [(64, 64), (172, 64), (288, 768), (2048, 5632), (4096, 4096 // 8), (32000, 4096)]
)
def test_the_device_holds_hardly_more_than_the_file(weight_type: str, rows: int, columns: int) -> None:
    file_bytes = rows * WEIGHT_TYPES[weight_type].row_bytes(columns)
    device_bytes = FORMATS[weight_type].nbytes(rows, padded(columns))
    assert file_bytes <= device_bytes <= 1.12 * file_bytes


def test_every_type_of_a_file_has_a_format() -> None:
    assert FORMATS.keys() == WEIGHT_TYPES.keys()
    for name, weight_format in FORMATS.items():
        blocks = 32 // WEIGHT_TYPES[name].block_columns
        assert sum(weight_format.plane_bytes) == blocks * WEIGHT_TYPES[name].block_bytes
