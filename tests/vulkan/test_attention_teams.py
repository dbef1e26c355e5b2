"""Attention by teams of lanes, which devices with wide subgroups run, on those with narrow ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import limits_for
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import POSITIONS, attention_case, attention_op, attention_ops, check
from tests.vulkan.test_same_bits import Row, assert_same_bits
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.options import FEATURES
from tplaunch.worker.buffers.cuts import CHUNK, CUT, ShortCuts
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.vulkan import listing
from tplaunch.worker.vulkan.dispatch.attention import LEAST_LANES
from tplaunch.worker.vulkan.dispatch.questions import ask

LANE = 16  # elements of a key that a lane has


@pytest.fixture(scope="module")
def teams(device: ReusedDevice) -> Iterator[ReusedDevice]:
    """The device, as if its subgroups were wide enough."""
    if "subgroup_shuffle" not in device.info.features:
        pytest.skip("the device was opened without the feature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "LEAST_TEAM_LANES", 1)
        patch.setattr(listing, "WITHOUT_TEAMS", ())
        # With 16 (LP_NATIVE_VECTOR_WIDTH=512) lavapipe's compiler takes more than a minute for q8_0.
        assert device.info.team_lanes in {4, 8}
        yield device


def kernel(op: Attention, kv_type: str, team_lanes: int, rows: int = 1) -> str:
    limits = limits_for(max_rows=rows, kv_type=kv_type)
    return ask(op, limits, FEATURES, 8, 256, team_lanes).kernel


@st.composite
def team_ops(draw: st.DrawFn, lanes: int) -> Attention:
    """Heads that teams of so many lanes hold."""
    lengths = st.integers(1, 2 * lanes).map(lambda eighths: 8 * eighths)
    op = draw(attention_ops())
    return attention_op(**{**vars(op), "key_length": draw(lengths), "value_length": draw(lengths)})


def short_cuts(lanes: int) -> st.SearchStrategy[ShortCuts]:
    """Rows with shorter cuts, as far as tiles divide them."""
    positions = st.sampled_from([0, 1, 70, 256, 600, 3000])
    if lanes < LEAST_LANES:
        return positions.map(ShortCuts)
    return st.builds(lambda one, other: ShortCuts(max(one, other), min(one, other)), positions, positions)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=15)
@given(
    data=st.data(),
    positions=st.lists(POSITIONS, min_size=1, max_size=5).map(tuple),
    part_length=st.sampled_from([CUT // 4, CUT, 2 * CUT, CHUNK]),
    block_length=st.sampled_from([1, 5, 16, 32]),
    sinks=st.booleans(),
    finishes=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape(
    teams: ReusedDevice,
    kv_type: str,
    data: st.DataObject,
    positions: tuple[int, ...],
    part_length: int,
    block_length: int,
    sinks: bool,
    finishes: bool,
    seed: int,
) -> None:
    op = data.draw(team_ops(teams.info.team_lanes), "op")
    short = data.draw(short_cuts(teams.info.team_lanes), "short cuts")
    assert kernel(op, kv_type, teams.info.team_lanes, len(positions)).startswith(f"attention_teams_{kv_type}")
    case = attention_case(
        op,
        positions,
        part_length=CHUNK if finishes else max(part_length, short.least),
        block_length=block_length,
        kv_type=kv_type,
        sinks=sinks,
        finishes=finishes,
        short_cuts=short,
        seed=seed,
    )
    check(teams, case)


@st.composite
def rows_of_sequences(draw: st.DrawFn) -> list[Row]:
    """Neighbouring rows of a few sequences, in any order."""
    rows: list[Row] = []
    for sequence in range(draw(st.integers(1, 3))):
        last = draw(st.integers(0, 300) | st.integers(0, 2600))
        rows += [(sequence, position) for position in range(max(0, last - draw(st.integers(0, 5))), last + 1)]
    return draw(st.permutations(rows))


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=5)
@given(
    data=st.data(),
    rows=rows_of_sequences(),
    is_cut=st.booleans(),
    sinks=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bits_are_the_same_in_any_company(
    teams: ReusedDevice,
    kv_type: str,
    data: st.DataObject,
    rows: list[Row],
    is_cut: bool,
    sinks: bool,
    seed: int,
) -> None:
    op = data.draw(team_ops(teams.info.team_lanes), "op")
    short = data.draw(short_cuts(teams.info.team_lanes), "short cuts")
    assert_same_bits(teams, op, rows, kv_type, short.least if is_cut else CHUNK, sinks, seed, short)


@pytest.mark.parametrize("part_length", [CUT, CHUNK])
def test_long_contexts(teams: ReusedDevice, part_length: int) -> None:
    """Lavapipe 22.3 drops, without a word, what an invocation does after some 65,535 iterations."""
    op = attention_op(num_heads=4, heads_per_kv_head=4, key_length=64, value_length=64, scale=0.1)
    check(teams, attention_case(op, (CHUNK - 1,), part_length=part_length, kv_type="f16"))


def test_rows_of_one_sequence_see_no_later_key(teams: ReusedDevice) -> None:
    op = attention_op(num_heads=4, heads_per_kv_head=2, num_kv_heads=2, key_length=64, value_length=64)
    case = attention_case(op, tuple(range(240, 270)), kv_type="f16")
    case.table_starts = (case.table_starts[-1],) * 30
    check(teams, case)


@pytest.mark.parametrize(
    ("length", "value_length", "team_lanes", "is_team"),
    [
        (128, 128, 8, True),
        (256, 128, 16, True),
        (256, 128, 8, False),  # more than the lanes of a subgroup hold
        (12, 64, 64, False),  # words would begin within a key
        (576, 512, 64, False),  # attention_long's
        (128, 128, 0, False),
    ],
)
def test_teams_compute_what_they_hold(length: int, value_length: int, team_lanes: int, is_team: bool) -> None:
    op = attention_op(key_length=length, value_length=value_length)
    assert ("teams" in kernel(op, "f16", team_lanes)) == is_team
