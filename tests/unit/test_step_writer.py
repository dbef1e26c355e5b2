"""Steps are checked before anything is written; chunks fit their buffers; the rope table is exact."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, Rank, examples, make_spec, open_model, write_llama
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.buffers.step import HEADER_WORDS, INDIRECT_WORD, StepLayout, StepView
from tplaunch.worker.buffers.table import MAX_ATTENTION_CHUNK, activation_buffers, attention_slots
from tplaunch.worker.step.rope_tables import rope_angles
from tplaunch.worker.step.writer import StepError, row_bucket

SPEC = make_spec()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(file, SPEC)
    return file


def rank_of(path: Path, limits: Limits = LIMITS) -> Rank:
    file, spec = open_model(path)
    return Rank(file, spec, make_plan(spec, [1])[0], 1, limits)


def make_step(number: int = 1, **columns: Any) -> Step:
    """A step of three rows of one sequence and two of another, changed."""
    plain: dict[str, Any] = {
        "token_ids": [5, 6, 7, 8, 47],
        "positions": [6, 7, 8, 0, 63],
        "table_starts": [0, 0, 0, 3, 3],
        "tables": [9, 31, 2, 0, *range(3, 9), *range(10, 19)],
        "logit_rows": [2, 4],
    }
    arrays = {name: np.array([*value], np.int32) for name, value in {**plain, **columns}.items()}
    return Step(number, **arrays)


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
    assert view.num_chunks * view.chunk_length >= 64
    indirect = view.header[INDIRECT_WORD : INDIRECT_WORD + 3].tolist()
    assert indirect == [3, SPEC.attentions[0].num_kv_heads, view.num_chunks]  # 5 rows x 2 heads, 4 at once
    assert view.positions[:5].tolist() == step.positions.tolist()
    assert view.table_starts[:5].tolist() == step.table_starts.tolist()
    assert view.tables[: step.tables.size].tolist() == step.tables.tolist()
    assert view.logit_rows[:2].tolist() == [2, 4]
    file, _ = open_model(path)
    info = file.tensors["token_embd.weight"]
    table = np.frombuffer(path.read_bytes(), "<f4", 48 * 32, info.offset).reshape(48, 32)
    embedding = rank.device.view("embedding").view(np.float32).reshape(LIMITS.max_rows, 32)
    np.testing.assert_array_equal(embedding[:5], table[[5, 6, 7, 8, 47]])


def test_parts_of_the_step_buffer_do_not_overlap() -> None:
    words = np.zeros(StepLayout(LIMITS).num_words, np.uint32)
    view = StepView(words, StepLayout(LIMITS))
    sizes = {
        "header": HEADER_WORDS,
        "positions": LIMITS.max_rows,
        "table_starts": LIMITS.max_rows,
        "logit_rows": LIMITS.max_logit_rows,
        "tables": LIMITS.num_blocks,
        "run_starts": LIMITS.num_slots + 1,
        "run_slots": LIMITS.num_slots,
    }
    for name, size in sizes.items():
        assert getattr(view, name).size == size
        getattr(view, name)[:] += 1
    assert words.tolist() == [1] * words.size


Mutation = Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]  # of one column, and where


def replaced(column: npt.NDArray[Any], index: int, value: int) -> npt.NDArray[Any]:
    changed = column.copy()
    changed[index % column.size] = value
    return changed


def shortened(column: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
    return column[: index % column.size]


def lengthened(column: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
    return np.append(column, np.full(1 + index % 40, column[0]))


COLUMNS = ("token_ids", "positions", "table_starts", "tables", "logit_rows")
STOPS = {  # the first value that is wrong
    "token_ids": SPEC.vocabulary_size,
    "positions": LIMITS.context_length,
    "table_starts": 19,
    "tables": LIMITS.num_blocks,
    "logit_rows": 5,
}
WILD = st.sampled_from([-1, -(2**31), 2**31 - 1, 2**30, 65536])


@pytest.fixture(scope="module")
def shared_rank(path: Path) -> Rank:
    return rank_of(path)


def assert_refused(rank: Rank, step: Step) -> None:
    before = snapshot(rank)
    with pytest.raises(StepError) as caught:
        rank.writer.write(step)
    assert 0 < len(str(caught.value)) < 200
    assert snapshot(rank) == before


@given(st.sampled_from(COLUMNS), st.integers(0, 100), WILD | st.just(None))
@examples(200)
def test_values_out_of_range_are_refused(shared_rank: Rank, name: str, index: int, value: int | None) -> None:
    wrong = STOPS[name] if value is None else value
    changes: dict[str, Any] = {name: replaced(getattr(make_step(), name), index, wrong)}
    assert_refused(shared_rank, make_step(**changes))


@given(st.sampled_from(("token_ids", "positions", "table_starts")), st.integers(0, 100), st.booleans())
@examples(60)
def test_columns_of_unequal_lengths_are_refused(
    shared_rank: Rank, name: str, index: int, shorter: bool
) -> None:
    change: Mutation = shortened if shorter else lengthened
    changes: dict[str, Any] = {name: change(getattr(make_step(), name), index)}
    assert_refused(shared_rank, make_step(**changes))


@given(st.integers(0, 18))
@examples(19)
def test_tables_that_end_too_soon_are_refused(shared_rank: Rank, length: int) -> None:
    assert_refused(shared_rank, make_step(tables=make_step().tables[:length]))


@pytest.mark.parametrize("number", [-1, 0, 2, 100])
def test_steps_out_of_order_are_refused(shared_rank: Rank, number: int) -> None:
    assert_refused(shared_rank, make_step(number))


def test_steps_count_up_from_one_and_a_refused_one_does_not_count(path: Path) -> None:
    rank = rank_of(path)
    rank.writer.write(make_step(1))
    assert_refused(rank, make_step(1))
    assert_refused(rank, make_step(2, positions=[0, 1, 2, 3, 64]))
    assert_refused(rank, make_step(3))
    rank.writer.write(make_step(2))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({name: [] for name in COLUMNS}, "step 1 has 0 rows and 0 logit rows; 1 to 16 and at most 16"),
        (dict.fromkeys(("token_ids", "positions", "table_starts"), [0] * 17), "step 1 has 17 rows"),
        ({"logit_rows": [0] * 17}, "step 1 has 5 rows and 17 logit rows"),
        ({"tables": [0] * 33}, "step 1 has block tables of 33 entries"),
        ({"positions": [0, 1]}, "step 1: 5 tokens, 2 positions"),
        ({"token_ids": [0, 48, 1, 2, 3]}, "a token id from 0 to 48; 0 to 47 are possible"),
        ({"positions": [0, 1, 2, 3, 64]}, "a position from 0 to 64; 0 to 63 are possible"),
        ({"tables": [*make_step().tables[:-1], 32]}, "a block from 0 to 32; 0 to 31 are possible"),
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


def slotted_step(slots: list[int], positions: list[int]) -> Step:
    zeros = [0] * len(positions)
    return make_step(
        token_ids=zeros, positions=positions, table_starts=zeros, tables=range(16), logit_rows=[], slots=slots
    )


def test_runs_are_the_neighbouring_rows_of_a_slot(path: Path) -> None:
    rank = rank_of(path, SLOTTED)
    rank.writer.write(slotted_step([2, 2, 2, 0, 3, 3], [6, 7, 8, 63, 0, 1]))
    view = view_of(rank)
    assert view.num_runs == 3
    assert view.run_starts[:4].tolist() == [0, 3, 4, 6]
    assert view.run_slots[:3].tolist() == [2, 0, 3]


@pytest.mark.parametrize(
    ("slots", "positions", "sentence"),
    [
        ([], [0, 1], "step 1 has 0 state slots; 2 are needed"),
        ([1], [0, 1], "step 1 has 1 state slots; 2 are needed"),
        ([0, 4], [0, 0], "a state slot from 0 to 4; 0 to 3 are possible"),
        ([-1, -1], [0, 1], "a state slot from -1 to -1; 0 to 3 are possible"),
        ([1, 0, 1], [3, 0, 4], "rows with the same state slot are not neighbours"),
        ([1, 1, 1], [3, 4, 6], "the positions of a state slot's rows are not consecutive"),
        ([0, 1, 1], [3, 4, 4], "the positions of a state slot's rows are not consecutive"),
    ],
)
def test_slots_that_would_mix_states_up_are_refused(
    slotted_rank: Rank, slots: list[int], positions: list[int], sentence: str
) -> None:
    step = slotted_step(slots, positions)
    assert_refused(slotted_rank, step)
    with pytest.raises(StepError, match=sentence):
        slotted_rank.writer.write(step)


def test_a_model_without_state_takes_no_slots(shared_rank: Rank) -> None:
    with pytest.raises(StepError, match="step 1 has 5 state slots; 0 are needed"):
        shared_rank.writer.write(make_step(slots=[0, 0, 0, 1, 1]))


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
def test_chunks_cover_all_keys_and_fit_their_buffers(
    long_ranks: dict[tuple[int, int], tuple[Rank, Iterator[int]]], data: st.DataObject
) -> None:
    rank, numbers = long_ranks[data.draw(st.sampled_from(sorted(long_ranks)))]
    limits = rank.limits
    num_rows = data.draw(st.integers(1, limits.max_rows) | st.just(limits.max_rows))
    last = data.draw(st.integers(0, limits.context_length - 1) | st.just(limits.context_length - 1))
    zeros = [0] * num_rows
    rank.writer.write(
        make_step(
            next(numbers),
            token_ids=zeros,
            positions=[*zeros[1:], last],
            table_starts=zeros,
            tables=[0],
            logit_rows=[],
        )
    )
    view = view_of(rank)
    assert 1 <= view.chunk_length <= MAX_ATTENTION_CHUNK
    assert view.chunk_length * view.num_chunks > last
    assert num_rows * view.num_chunks <= attention_slots(limits)
    heads = SPEC.attentions[0].num_heads
    buffers = activation_buffers(rank.spec, rank.share, rank.shards, limits)
    assert (
        num_rows * view.num_chunks * heads * SPEC.attentions[0].value_length * 4
        <= buffers["attention_sums"].nbytes
    )
    assert num_rows * view.num_chunks * heads * 2 * 4 <= buffers["attention_scales"].nbytes
    if last >= 512:
        assert view.chunk_length >= 256  # none so short that it is not worth a workgroup
        if num_rows == 1:
            assert view.num_chunks > 1  # a lone row is spread


# The rope table.


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_the_rope_table_is_exact_far_out(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "model.gguf"
    spec = make_spec(rope={"scale": scale, "base": 500000.0, "dimension": 8})
    write_llama(path, spec)
    limits = dataclasses.replace(LIMITS, context_length=131072, num_blocks=1, block_length=131072)
    rank = rank_of(path, limits)
    positions = [100_000, 131_071, 1, 0, 99_999]
    rank.writer.write(make_step(positions=positions, table_starts=[0] * 5, tables=[0]))
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
