"""Paged, chunked, grouped attention against NumPy, and against long contexts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, assert_close, limits_for, random_cache, random_floats
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.buffers.cuts import CHUNK, CUT, NO_SHORT_CUTS, ShortCuts, parts_of
from tplaunch.worker.numpy.attention import EMPTY_MAXIMUM
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.attention import Alibi, Attention, AttentionCombine


def attention_case(
    op: Attention,
    positions: tuple[int, ...],
    *,
    part_length: int = CUT,
    block_length: int = 32,
    kv_type: str = "f32",
    spare_rows: int = 0,
    seed: int = 0,
    offset: int = 0,
    sinks: bool = False,
    gated: bool = False,
    finishes: bool = False,
    short_cuts: ShortCuts = NO_SHORT_CUTS,
) -> Case:
    """Every row is a sequence of its own; their blocks lie in any order. Attention and the combination."""
    rng = np.random.default_rng(seed)
    num_rows, rows = len(positions), len(positions) + spare_rows
    blocks = [position // block_length + 1 for position in positions]
    starts = np.concatenate(([0], np.cumsum(blocks)))
    longest = max(positions) + 1
    cells = int(starts[-1]) * op.num_kv_heads * block_length
    parts = parts_of(np.array(positions), part_length, short_cuts)
    slots = rows * op.num_heads * parts.most
    arrays: dict[str, npt.NDArray[Any]] = {
        "query": 3 * random_floats(rng, rows, op.num_heads * op.key_length),
        "keys": random_cache(rng, kv_type, cells, op.key_length),
        "values": random_cache(rng, kv_type, cells, op.value_length),
        # What an older step left: no part may pick it up.
        "attention_sums": np.full(slots * op.value_length, np.nan, np.float32),
        "attention_scales": np.full(slots * 2, 1e9, np.float32),
        "attended": random_floats(rng, rows, padded(offset + op.num_heads * op.value_length)),
        "sinks": 2 * random_floats(rng, op.num_heads),
        "qkv": 9 * random_floats(rng, rows, 2 * op.num_heads * op.value_length + 3),
    }
    tables = tuple(rng.permutation(int(starts[-1])))
    combination = AttentionCombine(op.num_heads, op.value_length, offset, "sinks" if sinks else None, gated)
    return Case(
        limits_for(
            context_length=longest,
            max_sequences=num_rows,
            num_blocks=int(starts[-1]),
            num_window_blocks=int(starts[-1]),
            block_length=block_length,
            max_rows=rows,
            kv_type=kv_type,
        ),
        (dataclasses.replace(op, finish=combination),) if finishes else (op, combination),
        arrays,
        num_rows,
        rows,
        positions=positions,
        table_starts=tuple(starts[:-1]),
        tables=tables[::-1] if op.windowed else tables,
        window_tables=tables if op.windowed else tables[::-1],
        part_length=part_length,
        short_cuts=short_cuts,
    )


def attention_op(**changes: Any) -> Attention:
    values: dict[str, Any] = {
        "key_cache": "keys",
        "value_cache": "values",
        "num_heads": 1,
        "num_kv_heads": 1,
        "first_head": 0,
        "heads_per_kv_head": 1,
        "key_length": 4,
        "value_length": 4,
        "scale": 0.5,
    }
    return Attention(**{**values, **changes})


def check(device: ReusedDevice, case: Case, tolerance: float = 2e-5) -> None:
    """The attended rows; where a chunk's keys end within it, sums of both devices may differ by rounding."""
    results, expected = device.run(case), case.run(NumpyDevice(case.limits))
    assert_close({"attended": results["attended"]}, {"attended": expected["attended"]}, tolerance)


# Also such that subgroups have unlike numbers of tiles, and whole workgroups several.
POSITIONS = st.integers(0, 200) | st.integers(240, 700)


@st.composite
def attention_ops(draw: st.DrawFn, groups: st.SearchStrategy[int] = st.integers(1, 4)) -> Attention:  # noqa: B008
    """A rank's heads: any run of query heads, which may begin and end within a group."""
    group = draw(groups)
    first_head = draw(st.integers(0, group - 1))
    num_heads = draw(st.integers(1, 6))
    return attention_op(
        num_heads=num_heads,
        num_kv_heads=-(-(first_head + num_heads) // group),
        first_head=first_head,
        heads_per_kv_head=group,
        key_length=4 * draw(st.integers(1, 64)),
        value_length=4 * draw(st.integers(1, 64)),
        scale=draw(st.sampled_from([0.05, 0.2])),
        window=draw(st.sampled_from([0, 0, 1, 2, 17, 64, 100, 300])),
        chunked=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5, 50.0])),
        alibi=draw(st.none() | alibis(num_heads)),
    )


def alibis(num_heads: int) -> st.SearchStrategy[Alibi]:
    """This rank's heads are some of all."""
    first, others = st.integers(0, 20), st.integers(0, 20)
    return st.builds(
        lambda first, others, max_bias: Alibi(max_bias, first, first + num_heads + others),
        first,
        others,
        st.sampled_from([1.0, 8.0]),
    )


@st.composite
def attention_cases(
    draw: st.DrawFn,
    kv_type: str,
    ops: st.SearchStrategy[Attention],
    positions: st.SearchStrategy[tuple[int, ...]],
    max_spare_rows: int,
    cuts_finished: bool = False,  # a step may have parts where attention finishes its rows itself
) -> Case:
    """Any rows over any cache, in any of the ways in which a row can end."""
    ending = draw(st.sampled_from(["combined", "gated", "finishes"]), "ending")
    part_length = draw(st.sampled_from([CUT, 2 * CUT, CHUNK]), "part length")
    return attention_case(
        draw(ops, "op"),
        draw(positions, "positions"),
        part_length=CHUNK if ending == "finishes" and not cuts_finished else part_length,
        block_length=draw(st.sampled_from([1, 5, 16, 32]), "block length"),
        kv_type=kv_type,
        spare_rows=draw(st.integers(0, max_spare_rows), "spare rows"),
        offset=draw(st.integers(0, 9), "offset"),
        sinks=draw(st.booleans(), "sinks"),
        gated=ending == "gated",
        finishes=ending == "finishes",
        seed=draw(st.integers(0, 999), "seed"),
    )


FEW_POSITIONS = st.lists(POSITIONS, min_size=1, max_size=5).map(tuple)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=25)
@given(data=st.data())
def test_any_shape(device: ReusedDevice, kv_type: str, data: st.DataObject) -> None:
    check(device, data.draw(attention_cases(kv_type, attention_ops(), FEW_POSITIONS, max_spare_rows=2)))


@pytest.mark.parametrize("part_length", [CUT, CHUNK])
@pytest.mark.parametrize("length", [64, 128, 256])
def test_positions_beyond_256(device: ReusedDevice, length: int, part_length: int) -> None:
    """There some subgroups had more tiles than others; Mesa 25 let those wait for each other's barriers."""
    op = attention_op(num_heads=4, heads_per_kv_head=4, key_length=length, value_length=length, scale=0.06)
    case = attention_case(op, (*range(250, 262), 499), part_length=part_length, kv_type="f16")
    case.table_starts = (case.table_starts[-1],) * 13
    check(device, case)


def test_rows_of_one_sequence_see_no_later_key(device: ReusedDevice) -> None:
    """Prefill: the rows share a block table."""
    op = attention_op(num_heads=2, heads_per_kv_head=2, key_length=64, value_length=64, scale=0.125)
    case = attention_case(op, tuple(range(90, 120)))
    case.table_starts = (0,) * 30
    check(device, case)


@pytest.mark.parametrize("chunked", [False, True])
def test_rows_of_one_sequence_see_a_window_each(device: ReusedDevice, chunked: bool) -> None:
    op = attention_op(num_heads=2, heads_per_kv_head=2, key_length=64, value_length=64, scale=0.125)
    op = dataclasses.replace(op, window=20, chunked=chunked)
    case = attention_case(op, tuple(range(60, 120)))
    case.table_starts = (0,) * 60
    check(device, case)


def test_keys_outside_the_window_are_not_read(device: ReusedDevice) -> None:
    """Were they multiplied, even by zero, the result would not be a number."""
    op = attention_op(key_length=32, value_length=32, window=40)
    case = attention_case(op, (499,), block_length=500)
    expected = device.run(case)["attended"]
    for name in ("keys", "values"):
        case.arrays[name].reshape(-1, 32)[: 500 - 40] = np.nan
    assert np.array_equal(device.run(case)["attended"], expected)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("on_numpy", [False, True])
def test_blocks_before_all_windows_are_not_read(device: ReusedDevice, chunked: bool, on_numpy: bool) -> None:
    """Rows 61 to 79 of one sequence: before position 42, or 60, their table names another's blocks."""
    op = attention_op(num_heads=2, heads_per_kv_head=2, key_length=32, value_length=32, window=20)
    op = dataclasses.replace(op, chunked=chunked)
    case = attention_case(op, tuple(range(61, 80)), block_length=2)
    case.table_starts = (0,) * 19

    def attended() -> npt.NDArray[Any]:
        found = case.run(NumpyDevice(case.limits)) if on_numpy else device.run(case)
        return found["attended"]

    expected = attended()
    first_block = (60 if chunked else 42) // 2
    table = list(case.window_tables)
    case.window_tables = (*[table[50]] * first_block, *table[first_block:])  # of a row that is none here
    for name in ("keys", "values"):
        case.arrays[name].reshape(-1, 2 * 32)[table[50]] = np.nan
    assert np.isfinite(expected).all()
    assert np.array_equal(attended(), expected)


def test_alibi_matches_its_definition() -> None:
    """Twelve heads: of eight the slopes are 2^-1 ... 2^-8, of the others every other one of sixteen heads."""
    slopes = Alibi(8.0, 0, 12).slopes(12)
    of_sixteen = [2 ** (-(head + 1) / 2) for head in range(16)]
    assert np.allclose(slopes, [2.0**-head for head in range(1, 9)] + of_sixteen[0::2][:4])
    assert Alibi(8.0, 7, 12).slopes(3) == slopes[7:10]


def test_a_part_without_keys_says_so(device: ReusedDevice) -> None:
    case = attention_case(attention_op(window=100), (10, 500))
    scales = device.run(case)["attention_scales"].reshape(-1, 2)
    assert scales[0, 1] > 0
    assert np.array_equal(scales[1], np.array([EMPTY_MAXIMUM, 0], np.float32))
    assert scales[2, 1] > 0
    assert (scales[3:] == 1e9).all()  # what no row has a part in is not written


@pytest.mark.parametrize("part_length", [CUT, CHUNK])
@pytest.mark.parametrize(("key_length", "num_heads"), [(8, 1), (256, 1), (256, 4)])
def test_long_contexts(device: ReusedDevice, key_length: int, num_heads: int, part_length: int) -> None:
    """Lavapipe 22.3 drops, without a word, what an invocation does after some 65,535 iterations.

    Four long heads leave sums for a single subgroup, which then walks all keys.
    """
    num_keys = CHUNK if num_heads > 1 else 75000
    heads = {"num_heads": num_heads, "heads_per_kv_head": num_heads}
    op = attention_op(**heads, key_length=key_length, value_length=key_length, scale=0.2)
    check(device, attention_case(op, (num_keys - 1,), part_length=part_length, kv_type="f16"))
