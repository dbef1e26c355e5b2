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

from tests.blocks import extreme_rows, unit_columns
from tests.models import Floats, examples
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.formats import FORMATS, PLANE_ALIGNMENT

Bytes = npt.NDArray[np.uint8]
KNOWN = {kind.name for kind in gguf.GGMLQuantizationType}  # an older package has not all of them
TYPES = sorted(WEIGHT_TYPES.keys() & KNOWN)


def on_device(weight_type: str, planes: list[Bytes], rows: int, columns: int) -> list[Bytes]:
    """Planes as a device holds them: at their offsets in one buffer, with what lies between."""
    weight_format = FORMATS[weight_type]
    offsets = weight_format.plane_offsets(rows, columns)
    buffer = np.full(weight_format.nbytes(rows, columns), 0xAB, np.uint8)
    for plane, start in zip(planes, offsets, strict=False):
        buffer[start : start + plane.size] = plane
    return [buffer[start:stop] for start, stop in itertools.pairwise(offsets)]


def expected_values(weight_type: str, raw: Bytes) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        values: Floats = dequantize(raw, gguf.GGMLQuantizationType[weight_type])
    return values


@given(
    weight_type=st.sampled_from(TYPES),
    rows=st.integers(1, 6),
    columns=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
@examples(40 * len(TYPES))
def test_repacked_rows_stand_for_the_same_numbers(
    weight_type: str, rows: int, columns: int, seed: int
) -> None:
    if WEIGHT_TYPES[weight_type].block_columns > 1:
        columns = -(-columns // unit_columns(weight_type)) * unit_columns(weight_type)
    raw = extreme_rows(weight_type, rows, columns, np.random.default_rng(seed))
    assert raw.shape == (rows, WEIGHT_TYPES[weight_type].row_bytes(columns))
    weight_format = FORMATS[weight_type]
    planes = weight_format.repack(raw, padded(columns))
    for plane, tile_bytes in zip(planes, weight_format.plane_bytes, strict=True):
        assert plane.dtype == np.uint8
        assert plane.shape == (rows * padded(columns) // weight_format.tile_columns * tile_bytes,)
    into = [np.full_like(plane, 0xAB) for plane in planes]
    weight_format.repack_into(into, raw, padded(columns))
    for written, plane in zip(into, planes, strict=True):
        np.testing.assert_array_equal(written, plane)
    held = on_device(weight_type, planes, rows, padded(columns))
    found = weight_format.dequantize(held, rows, padded(columns))
    np.testing.assert_array_equal(weight_format.widen(raw, columns), found[:, :columns])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :columns], expected_values(weight_type, raw))
    assert not found[:, columns:].any()


@pytest.mark.parametrize("weight_type", TYPES)
def test_many_blocks_stand_for_the_same_numbers(weight_type: str) -> None:
    """So many that every quant meets every small scale; signs of zeros count, too."""
    columns = unit_columns(weight_type)
    raw = extreme_rows(weight_type, 3000, columns, np.random.default_rng(1))
    found = FORMATS[weight_type].dequantize(FORMATS[weight_type].repack(raw, columns), len(raw), columns)
    expected = expected_values(weight_type, raw)
    np.testing.assert_array_equal(found, expected)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[is_number], np.signbit(expected)[is_number])


@given(st.sampled_from(sorted(WEIGHT_TYPES)), st.integers(0, 40), st.integers(0, 20))
@examples(300)
def test_planes_are_aligned_and_do_not_overlap(weight_type: str, rows: int, tiles: int) -> None:
    weight_format = FORMATS[weight_type]
    columns = weight_format.tile_columns * tiles
    offsets = weight_format.plane_offsets(rows, columns)
    codebook_bytes = weight_format.codebook_bytes if rows * columns else 0
    assert 0 <= offsets[0] - codebook_bytes < PLANE_ALIGNMENT
    assert offsets[-1] == weight_format.nbytes(rows, columns)
    assert weight_format.nbytes(0, columns) == 0
    assert all(offset % PLANE_ALIGNMENT == 0 for offset in offsets)
    for start, stop, tile_bytes in zip(offsets, offsets[1:], weight_format.plane_bytes, strict=False):
        assert 0 <= stop - start - rows * tiles * tile_bytes < PLANE_ALIGNMENT
    for name, tile_bytes in zip(weight_format.planes, weight_format.plane_bytes, strict=True):
        # What is loaded by 16 bytes is of so many. Others are loaded by words, which tiles may share.
        assert tile_bytes % 16 == 0 if name in ("quants", "highs") else name in ("scales", "words")
    empty = weight_format.dequantize(on_device(weight_type, [], rows, 0), rows, 0)
    assert empty.shape == (rows, 0)


@pytest.mark.parametrize("weight_type", sorted(WEIGHT_TYPES))
@pytest.mark.parametrize(
    ("rows", "columns"), [(64, 256), (172, 256), (288, 768), (2048, 5632), (4096, 4096 // 8), (32000, 4096)]
)
def test_the_device_holds_hardly_more_than_the_file(weight_type: str, rows: int, columns: int) -> None:
    """At most 12 % and, of a small matrix, a codebook."""
    file_bytes = rows * WEIGHT_TYPES[weight_type].row_bytes(columns)
    device_bytes = FORMATS[weight_type].nbytes(rows, padded(columns))
    codebook_bytes = FORMATS[weight_type].codebook_bytes if rows * columns < 1 << 20 else 0
    assert file_bytes <= device_bytes - codebook_bytes <= 1.12 * file_bytes


def test_every_type_of_a_file_has_a_format() -> None:
    assert FORMATS.keys() == WEIGHT_TYPES.keys()
    for name, weight_format in FORMATS.items():
        assert weight_format.tile_columns % WEIGHT_TYPES[name].block_columns == 0


@pytest.mark.parametrize("weight_type", TYPES)
def test_the_table_agrees_with_the_gguf_package(weight_type: str) -> None:
    kind = gguf.GGMLQuantizationType[weight_type]
    row = WEIGHT_TYPES[weight_type]
    assert (row.type_id, (row.block_columns, row.block_bytes)) == (kind.value, gguf.GGML_QUANT_SIZES[kind])
