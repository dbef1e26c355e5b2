"""Steps are checked before anything is written; chunks fit their buffers; the rope table is exact."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, Rank, examples, make_spec, open_model, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.model.attention import Window
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.buffers.cuts import CHUNK, CUT, attention_slots
from tplaunch.worker.buffers.step import HEADER_WORDS, INDIRECT_WORD, NO_SLOT, StepLayout, StepView
from tplaunch.worker.buffers.table import activation_buffers
from tplaunch.worker.step.checks import StepError
from tplaunch.worker.step.rope_tables import rope_angles
from tplaunch.worker.step.writer import row_bucket

SPEC = make_spec()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(file, SPEC)
    return file


def rank_of(path: Path, limits: Limits = LIMITS) -> Rank:
    file, spec = open_model(path)
    return Rank(file, spec, make_plan(spec, [1])[0], 1, limits)


TABLES = {1: [9, 31, 2], 4: [0, *range(3, 9), *range(10, 19)]}  # blocks by seat


def make_step(number: int = 1, **columns: Any) -> Step:
    """A step of three rows of one sequence, one of another and one more of that, far on; changed."""
    rows = [Rows([5, 6, 7], 6, seat=1), Rows([8], 0, seat=4), Rows([47], 63, seat=4)]
    return step_of(number, rows, **{"logit_rows": [2, 4], "tables": TABLES, **columns})


def view_of(rank: Rank) -> StepView:
    return StepView(rank.device.view("step").view(np.uint32), StepLayout(rank.limits))


def snapshot(rank: Rank) -> list[bytes]:
    return [rank.device.view(name).tobytes() for name in ("step", "rope", "embedding")]


def test_a_step_arrives_in_the_buffers(path: Path) -> None:
    rank = rank_of(path)
    step = make_step()
    rank.writer.write(step)
    view = view_of(rank)
    assert (view.num_rows, view.num_logit_rows) == (5, 2)
    assert view.part_length == CUT and view.slot_starts[:5].tolist() == [0, 1, 2, 3, 4]
    indirect = view.header[INDIRECT_WORD : INDIRECT_WORD + 3].tolist()
    assert indirect == [3, SPEC.attentions[0].num_kv_heads, 1]  # 5 rows x 2 heads, 4 at once
    assert view.positions[:5].tolist() == [6, 7, 8, 0, 63]
    assert view.table_starts[:5].tolist() == [16, 16, 16, 64, 64]
    tables = view.tables.reshape(LIMITS.max_sequences, 16)
    for seat, blocks in TABLES.items():
        assert tables[seat, : len(blocks)].tolist() == blocks
    assert not tables[[0, 2, 3, 5, 6, 7]].any() and not view.window_tables.any()
    assert view.logit_rows[:2].tolist() == [2, 4]
    file, _ = open_model(path)
    info = file.tensors["token_embd.weight"]
    table = np.frombuffer(path.read_bytes(), "<f4", 48 * 32, info.offset).reshape(48, 32)
    embedding = rank.device.view("embedding").view(np.float32).reshape(LIMITS.max_rows, 32)
    np.testing.assert_array_equal(embedding[:5], table[[5, 6, 7, 8, 47]])


def test_parts_of_the_step_buffer_do_not_overlap() -> None:
    limits = dataclasses.replace(LIMITS, num_slots=3)
    words = np.zeros(StepLayout(limits).num_words, np.uint32)
    view = StepView(words, StepLayout(limits))
    sizes = {
        "header": HEADER_WORDS,
        "slot_starts": LIMITS.max_rows,
        "positions": LIMITS.max_rows,
        "table_starts": LIMITS.max_rows,
        "logit_rows": LIMITS.max_logit_rows,
        "tables": LIMITS.max_sequences * 16,
        "window_tables": LIMITS.max_sequences * 16,
        "run_starts": limits.num_slots + 1,
        "read_slots": limits.num_slots,
        "write_slots": limits.num_slots,
    }
    for name, size in sizes.items():
        assert getattr(view, name).size == size
        getattr(view, name)[:] += 1
    assert words.tolist() == [1] * words.size


@pytest.mark.parametrize("name", ["num_blocks", "num_window_blocks"])
def test_a_pool_without_blocks_has_no_tables(name: str) -> None:
    none: dict[str, Any] = {name: 0}
    limits = dataclasses.replace(LIMITS, max_sequences=3, **none)
    layout = StepLayout(limits)
    view = StepView(np.zeros(layout.num_words, np.uint32), layout)
    assert sorted((view.tables.size, view.window_tables.size)) == [0, 3 * 16]


def replaced(column: npt.NDArray[Any], index: int, value: int) -> npt.NDArray[Any]:
    changed = column.copy()
    changed[index % column.size] = value
    return changed


# The columns of each field, and the first value that is wrong in each.
STOPS: dict[str, tuple[int, ...]] = {
    "token_ids": (SPEC.vocabulary_size,),
    "runs": (LIMITS.max_sequences, LIMITS.context_length, 2, 0, 0),
    "tables": (LIMITS.max_sequences, 16, LIMITS.num_blocks),
    "window_tables": (LIMITS.max_sequences, 16, LIMITS.num_window_blocks),
    "logit_rows": (5,),
    "copies": (LIMITS.num_blocks,) * 2,
    "window_copies": (LIMITS.num_window_blocks,) * 2,
}
WIDE: dict[str, Any] = {"window_tables": {0: [3, 4]}, "copies": [1, 2], "window_copies": [30, 31, 4, 0]}
WILD = st.sampled_from([-2, -(2**31), 2**31 - 1, 2**30, 65536])


@pytest.fixture(scope="module")
def shared_rank(path: Path) -> Rank:
    return rank_of(path)


def assert_refused(rank: Rank, step: Step) -> None:
    before = snapshot(rank)
    with pytest.raises(StepError) as caught:
        rank.writer.write(step)
    assert 0 < len(str(caught.value)) < 200
    assert snapshot(rank) == before


@given(st.sampled_from(sorted(STOPS)), st.integers(0, 1000), WILD | st.just(None))
@examples(300)
def test_values_out_of_range_are_refused(shared_rank: Rank, name: str, index: int, value: int | None) -> None:
    good = getattr(make_step(**WIDE), name)
    index %= good.size
    wrong = STOPS[name][index % len(STOPS[name])] if value is None else value
    assert_refused(shared_rank, make_step(**WIDE | {name: replaced(good, index, wrong)}))


@given(st.sampled_from(["runs", "tables", "window_tables", "copies", "window_copies"]), st.integers(1, 100))
@examples(60)
def test_columns_that_end_too_soon_are_refused(shared_rank: Rank, name: str, length: int) -> None:
    good = getattr(make_step(**WIDE), name)
    if length % len(STOPS[name]) or name == "runs":
        assert_refused(shared_rank, make_step(**WIDE | {name: good[: length % good.size]}))


@given(st.sampled_from([(0, 1), (1, 2), (4, 0), (4, 15)]))
@examples(4)
def test_keys_in_a_block_that_was_never_set_are_refused(shared_rank: Rank, place: tuple[int, int]) -> None:
    """Every position up to a row's own has a key; where a seat's table says a block later is soon enough."""
    changes = make_step().tables.reshape(-1, 3)
    left = changes[(changes[:, :2] != place).any(axis=1)]
    if place == (0, 1):  # of a seat that no row has
        assert left.size == changes.size
    else:
        with pytest.raises(StepError, match=f"seat {place[0]} has no block at place {place[1]}"):
            shared_rank.writer.write(make_step(tables=left.reshape(-1)))


def test_tables_stay_from_step_to_step(path: Path) -> None:
    rank = rank_of(path)
    rank.writer.write(make_step())
    rank.writer.write(step_of(2, [Rows([1, 2], 9, seat=1)]))
    rank.writer.write(step_of(3, [Rows([1], 11, seat=1), Rows([1], 5, seat=4)], tables={1: [9, 7]}))
    assert_refused(rank, step_of(4, [Rows([1], 12, seat=1)]))
    rank.writer.write(step_of(4, [Rows([1], 12, seat=1)], tables=[1, 3, 30, 1, 3, 20]))
    tables = view_of(rank).tables.reshape(LIMITS.max_sequences, 16)
    assert tables[1, :4].tolist() == [9, 7, 2, 20]  # the later of two changes counts
    assert tables[4].tolist() == TABLES[4]


@pytest.mark.parametrize("chunked", [False, True])
def test_only_blocks_of_the_window_need_be_set(tmp_path: Path, chunked: bool) -> None:
    write_llama(tmp_path / "model.gguf", SPEC)
    file, spec = open_model(tmp_path / "model.gguf")
    attention = dataclasses.replace(SPEC.attentions[0], window=Window(10, chunked))
    layer = dataclasses.replace(spec.layers[0], attention=attention)
    spec = dataclasses.replace(spec, layers=(layer,) * spec.num_layers)
    limits = dataclasses.replace(LIMITS, num_blocks=0, num_window_blocks=5)
    rank = Rank(file, spec, make_plan(spec, [1])[0], 1, limits)
    first = (20 if chunked else 16) // 4  # of rows 25 to 27
    changes = [number for place in range(first, 7) for number in (2, place, place - 4)]
    assert_refused(rank, step_of(1, [Rows([1, 2, 3], 25, seat=2)], window_tables=changes[3:]))
    rank.writer.write(step_of(1, [Rows([1, 2, 3], 25, seat=2)], window_tables=changes))
    assert_refused(rank, step_of(2, [Rows([1], 28, seat=2)]))
    assert_refused(rank, step_of(2, [Rows([1], 28, seat=2)], tables=[2, 7, 0]))  # it has no such layer
    rank.writer.write(step_of(2, [Rows([1], 28, seat=2)], window_tables=[2, 7, 0]))


@pytest.mark.parametrize("number", [-1, 0, 2, 100])
def test_steps_out_of_order_are_refused(shared_rank: Rank, number: int) -> None:
    assert_refused(shared_rank, make_step(number))


def test_steps_count_up_from_one_and_a_refused_one_does_not_count(path: Path) -> None:
    rank = rank_of(path)
    rank.writer.write(make_step(1))
    assert_refused(rank, make_step(1))
    assert_refused(rank, step_of(2, [Rows([0], 64, seat=4)]))
    assert_refused(rank, make_step(3))
    rank.writer.write(make_step(2))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"token_ids": [], "logit_rows": []}, "step 1 has 0 rows and 0 logit rows; 1 to 16 and at most 16"),
        ({"token_ids": [0] * 17}, "step 1 has 17 rows"),
        ({"logit_rows": [0] * 17}, "step 1 has 5 rows and 17 logit rows"),
        ({"token_ids": [0] * 4, "logit_rows": []}, "step 1 has 4 tokens, but runs of 5 rows"),
        ({"runs": [1, 6, 0, -1, -1]}, "a number of rows in a run from 0 to 0; 1 to 16 are possible"),
        ({"runs": [1, 6, 5, -1]}, "4 integers of runs; 5 belong together"),
        ({"runs": [8, 6, 5, -1, -1]}, "a seat from 8 to 8; 0 to 7 are possible"),
        ({"runs": [4, 60, 5, -1, -1]}, "a last position from 64 to 64; 0 to 63 are possible"),
        ({"token_ids": [0, 48, 1, 2, 3]}, "a token id from 0 to 48; 0 to 47 are possible"),
        ({"tables": [0, 16, 0]}, "a place in a block table from 16 to 16; 0 to 15 are possible"),
        ({"tables": [7, 0, 32]}, "a block from 32 to 32; 0 to 31 are possible"),
        ({"copies": [1, 2, 3, 2]}, "a block is copied to twice, or copied to and from"),
        ({"window_copies": [1, 2, 2, 3]}, "a block is copied to twice, or copied to and from"),
        ({"logit_rows": [-1]}, "a logit row from -1 to -1; 0 to 4 are possible"),
    ],
)
def test_the_numbers_are_named(shared_rank: Rank, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StepError, match=sentence):
        shared_rank.writer.write(make_step(**columns))


# Recurrent state.


SLOTTED = dataclasses.replace(LIMITS, num_slots=4)


@pytest.fixture(scope="module")
def slotted_rank(path: Path) -> Rank:
    return rank_of(path, SLOTTED)


def slotted_step(*runs: tuple[int, int, int, int]) -> Step:
    """runs: position, number of rows, slot that is read, and slot that is written."""
    rows = [Rows([0] * length, start, 4, read, write) for start, length, read, write in runs]
    return step_of(1, rows, tables={4: range(16)})


def test_runs_have_states(path: Path) -> None:
    rank = rank_of(path, SLOTTED)
    rank.writer.write(slotted_step((6, 3, 2, 2), (63, 1, 1, 0), (0, 2, -1, 3)))
    view = view_of(rank)
    assert view.num_runs == 3
    assert view.run_starts[:4].tolist() == [0, 3, 4, 6]
    assert view.read_slots[:3].tolist() == [2, 1, NO_SLOT]
    assert view.write_slots[:3].tolist() == [2, 0, 3]


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([(0, 1, -1, 4)], "a state slot written from 4 to 4; 0 to 3 are possible"),
        ([(0, 1, -1, -1)], "a state slot written from -1 to -1; 0 to 3 are possible"),
        ([(1, 1, 4, 0)], "a state slot read from 4 to 4; -1 to 3 are possible"),
        ([(1, 1, -2, 0)], "a state slot read from -2 to -2; -1 to 3 are possible"),
        ([(3, 1, 1, 1), (0, 1, -1, 0), (4, 1, 1, 1)], "two runs write the same state slot"),
        ([(3, 1, 1, 1), (3, 1, 1, 2)], "a run reads a state slot that another one writes"),
        ([(3, 1, -1, 0)], "a state begins elsewhere than at position 0, or does not begin there"),
        ([(0, 1, 0, 0)], "a state begins elsewhere than at position 0, or does not begin there"),
    ],
)
def test_slots_that_would_mix_states_up_are_refused(
    slotted_rank: Rank, runs: list[tuple[int, int, int, int]], sentence: str
) -> None:
    assert_refused(slotted_rank, slotted_step(*runs))
    with pytest.raises(StepError, match=sentence):
        slotted_rank.writer.write(slotted_step(*runs))


def test_several_runs_may_read_a_state_that_stays(path: Path) -> None:
    rank = rank_of(path, SLOTTED)
    rank.writer.write(slotted_step((6, 3, 2, 0), (6, 3, 2, 1), (0, 1, -1, 3)))
    assert view_of(rank).read_slots[:3].tolist() == [2, 2, NO_SLOT]


@pytest.mark.parametrize(("read", "write"), [(0, -1), (-1, 0)])
def test_a_model_without_state_takes_no_slots(shared_rank: Rank, read: int, write: int) -> None:
    with pytest.raises(StepError, match=r"a state slot (read|written) from 0 to 0; -1 to -1 are possible"):
        shared_rank.writer.write(slotted_step((1, 1, read, write)))


# How attention is cut.


@pytest.fixture(scope="module")
def long_ranks(path: Path) -> dict[tuple[int, int], tuple[Rank, Iterator[int]]]:
    """By context length and rows; with the numbers of the steps to come."""
    found: dict[tuple[int, int], tuple[Rank, Iterator[int]]] = {}
    for context, rows in [(131072, 1), (131072, 512), (131072, 7), (16385, 256), (4096, 512), (100, 1)]:
        limits = Limits(context, num_blocks=1, block_length=context, max_rows=rows, max_logit_rows=1)
        found[context, rows] = rank_of(path, limits), itertools.count(1)
    return found


@given(st.data())
@examples(150)
def test_parts_cover_all_keys_and_fit_their_buffers(
    long_ranks: dict[tuple[int, int], tuple[Rank, Iterator[int]]], data: st.DataObject
) -> None:
    rank, numbers = long_ranks[data.draw(st.sampled_from(sorted(long_ranks)))]
    limits = rank.limits
    num_rows = data.draw(st.integers(1, limits.max_rows) | st.just(limits.max_rows))
    last = data.draw(st.integers(0, limits.context_length - 1) | st.just(limits.context_length - 1))
    rows = [*[Rows([0])] * (num_rows - 1), Rows([0], last)]
    rank.writer.write(step_of(next(numbers), rows, tables={0: [0]}))
    view = view_of(rank)
    positions = np.array([*[0] * (num_rows - 1), last])
    counts = positions // view.part_length + 1
    assert view.part_length in (CUT, CHUNK)
    assert view.slot_starts[:num_rows].tolist() == [0, *np.cumsum(counts)[:-1].tolist()]
    assert view.header[INDIRECT_WORD + 2] == counts.max()  # a workgroup for each part of the longest row
    num_slots, heads = int(counts.sum()), SPEC.attentions[0].num_heads
    assert num_slots <= attention_slots(limits)
    buffers = activation_buffers(rank.spec, rank.share, rank.shards, limits)
    value_length = SPEC.attentions[0].value_length
    assert num_slots * heads * value_length * 4 <= buffers["attention_sums"].nbytes
    assert num_slots * heads * 2 * 4 <= buffers["attention_scales"].nbytes
    if num_rows == 1:
        assert view.part_length == CUT  # a lone row is spread


# The rope table.


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_the_rope_table_is_exact_far_out(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "model.gguf"
    spec = make_spec(rope={"scale": scale, "base": 500000.0, "dimension": 8})
    write_llama(path, spec)
    limits = dataclasses.replace(
        LIMITS, context_length=131072, num_blocks=1, num_window_blocks=0, block_length=131072
    )
    rank = rank_of(path, limits)
    positions = [100_000, 131_071, 1, 0, 99_999]
    rank.writer.write(step_of(1, [Rows([0], position) for position in positions], tables={0: [0]}))
    table = rank.device.view("rope").view(np.float32).reshape(limits.max_rows, 8)
    for row, position in enumerate(positions):
        for pair in range(4):
            angle = position * scale * 500000.0 ** (-2 * pair / 8)
            assert table[row, 2 * pair] == pytest.approx(math.cos(angle), abs=1e-7)
            assert table[row, 2 * pair + 1] == pytest.approx(math.sin(angle), abs=1e-7)


def test_factors_slow_the_rotation() -> None:
    plain = rope_angles(SPEC.ropes[0], None)
    factors = np.array([1, 2, 4, 8], np.float32)
    np.testing.assert_allclose(rope_angles(SPEC.ropes[0], factors) * [1, 2, 4, 8], plain, rtol=1e-12)
    assert plain.dtype == np.float64
    np.testing.assert_allclose(plain, [1, 1e-1, 1e-2, 1e-3], rtol=1e-12)


@given(st.integers(0, 512), st.integers(1, 512))
@examples(200)
def test_buckets_are_the_next_powers_of_two(num_rows: int, max_rows: int) -> None:
    num_rows = min(num_rows, max_rows)
    bucket = row_bucket(num_rows, max_rows)
    assert num_rows <= bucket <= max_rows
    assert bucket in (0, max_rows) or bucket.bit_count() == 1
    assert bucket < 2 * num_rows or num_rows == bucket == 0
