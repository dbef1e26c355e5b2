"""How attention cuts keys: by a row's position and its device, in buckets, and never by other rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.worker.buffers.cuts import (
    CHUNK,
    CUT,
    MOST_SHORT,
    NO_SHORT_CUTS,
    ShortCuts,
    fitting_parts,
    parts_of,
    short_cuts,
)

POSITIONS = st.lists(st.integers(0, 70_000), min_size=1, max_size=9)
SHORT = st.builds(short_cuts, st.integers(1, 200), st.integers(1, 64))


@given(positions=POSITIONS, short=SHORT, slots=st.integers(1, 500))
@examples(100)
def test_parts_follow_from_rows_alone(positions: list[int], short: ShortCuts, slots: int) -> None:
    rows = np.array(positions)
    parts = fitting_parts(rows, slots, short)
    counts = [int(each) for each in np.diff([*parts.starts, parts.total])]
    assert parts.most == max(counts) and parts.total == sum(counts)
    for position, count in zip(positions, counts, strict=True):
        alone = parts_of(np.array([position]), parts.length, short)
        assert alone.most == alone.total == count
        cut = int(short.of(np.array([position]))[0])
        length = max(cut, parts.length)
        assert CHUNK % length == 0 and (count - 1) * length <= position < count * length
    assert parts.total <= slots or parts.length == CHUNK


@pytest.mark.parametrize(
    ("units", "groups", "first_half", "first_whole"),
    [
        (82, 8, 32 * 64, 32 * 128),  # an 8B on a card with 82: two for each from 21 cuts on, so in 32
        (82, 4, 64 * 64, 64 * 128),  # half of it on each of two
        (132, 8, 64 * 64, 64 * 128),
        (20, 32, 2 * 64, 2 * 128),
        (32, 64, 0, 0),  # one cut is enough
        (1000, 1, MOST_SHORT * 64, MOST_SHORT * 128),
    ],
)
def test_cuts_fill_the_device(units: int, groups: int, first_half: int, first_whole: int) -> None:
    assert short_cuts(units, groups) == ShortCuts(half=first_whole, quarter=first_half)


def test_cuts_get_longer_with_the_row() -> None:
    short = short_cuts(82, 8)
    assert short.of(np.array([0, 2047, 2048, 4095, 4096, 10**6])).tolist() == [64, 64, 128, 128, 256, 256]
    assert (short.least, NO_SHORT_CUTS.least, ShortCuts(half=9).least) == (64, CUT, CUT // 2)
    assert NO_SHORT_CUTS.of(np.array([0, 9])).tolist() == [CUT, CUT]
