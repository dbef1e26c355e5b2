"""A step that follows from the one before it is told by its tokens; any other one is told whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lone_worker import worker
from tests.models import LIMITS, Rank, examples, make_spec, open_model, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.messages import Advance, FetchRows, Step, StepDone, Wanted
from tplaunch.coordinator.messages import Rows as FetchedRows
from tplaunch.coordinator.next_step import Shortener, advanced
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.rank import Worker
from tplaunch.worker.step.checks import StepError

__all__ = ["worker"]

WANTED = Wanted(np.array([1, 1], np.int32))
TABLES = {1: [9, 31, 2, 5], 4: [0, *range(10, 25)]}  # blocks by seat, of 4 positions each
SLOTTED = dataclasses.replace(LIMITS, num_slots=4)
LONG_BLOCKS = dataclasses.replace(
    LIMITS, context_length=1024, block_length=512, num_blocks=6, num_window_blocks=6
)


def decode_step(number: int, first: int, second: int, tokens: Sequence[int] = (5, 8), **fields: Any) -> Step:
    """A row of each of two texts at these positions."""
    wanted, of_prompts = fields.pop("wanted", WANTED), fields.pop("of_prompts", False)
    rows = [Rows(tokens[:1], first, seat=1), Rows(tokens[1:], second, seat=4)]
    step = step_of(number, rows, **{"logit_rows": [0, 1], **fields})
    return dataclasses.replace(step, wanted=wanted, of_prompts=of_prompts)


def same(one: Step, other: Step) -> bool:
    """Tells whether two steps are the same, to the type of each array."""
    names = [field.name for field in dataclasses.fields(Step) if field.name not in ("number", "wanted")]
    return (one.number, one.wanted) == (other.number, other.wanted) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and np.asarray(getattr(one, name)).dtype == np.asarray(getattr(other, name)).dtype
        for name in names
    )


def told(last: Step | None, step: Step) -> Step | Advance:
    shortener = Shortener()
    if last is not None:
        shortener.note(last)
    return shortener.shortened(step)


def test_the_rows_that_follow_are_told_by_their_tokens() -> None:
    last, step = decode_step(6, 5, 9, tables={1: [7]}), decode_step(7, 6, 10, (40, 41))
    message = told(last, step)
    assert isinstance(message, Advance)
    assert (message.number, message.token_ids.tolist()) == (7, [40, 41])
    assert same(advanced(last, message), step)


def test_behind_a_last_row_of_a_prompt_rows_follow_that_are_none() -> None:
    message = told(decode_step(6, 5, 9, of_prompts=True), decode_step(7, 6, 10))
    assert isinstance(message, Advance)
    assert not advanced(decode_step(6, 5, 9, of_prompts=True), message).of_prompts


def test_a_state_is_read_where_the_last_step_has_left_it() -> None:
    last = step_of(1, [Rows([1], 3, 0, read_slot=2, write_slot=3)])
    step = step_of(2, [Rows([1], 4, 0, read_slot=3, write_slot=3)])
    step = dataclasses.replace(step, wanted=last.wanted)
    message = told(last, step)
    assert isinstance(message, Advance) and same(advanced(last, message), step)


OTHERS: dict[str, Step] = {
    "another position": decode_step(7, 6, 11),
    "the same position": decode_step(7, 5, 10),
    "another text": step_of(7, [Rows([5], 6, seat=1), Rows([8], 10, seat=3)], logit_rows=[0, 1]),
    "the other order": step_of(7, [Rows([8], 10, seat=4), Rows([5], 6, seat=1)], logit_rows=[0, 1]),
    "a text has ended": step_of(7, [Rows([5], 6, seat=1)], logit_rows=[0]),
    "a text has come": step_of(
        7, [Rows([5], 6, seat=1), Rows([8], 10, seat=4), Rows([9], 0, seat=2)], logit_rows=[0, 1]
    ),
    "a part of a prompt beside them": step_of(
        7, [Rows([5], 6, seat=1), Rows([8, 9], 10, seat=4)], logit_rows=[0, 1]
    ),
    "a new block": decode_step(7, 6, 10, tables=[4, 2, 30]),
    "a new block of a window": decode_step(7, 6, 10, window_tables=[4, 2, 30]),
    "a copied block": decode_step(7, 6, 10, copies=[1, 2]),
    "a copied block of a window": decode_step(7, 6, 10, window_copies=[1, 2]),
    "a state in another slot": step_of(
        7, [Rows([5], 6, 1, read_slot=-1, write_slot=2), Rows([8], 10, 4)], logit_rows=[0, 1]
    ),
    "fewer logits": decode_step(7, 6, 10, logit_rows=[1]),
    "rows of prompts": decode_step(7, 6, 10, of_prompts=True),
    "other candidates": decode_step(7, 6, 10, wanted=Wanted(np.array([1, 40], np.int32))),
    "a gap": decode_step(8, 6, 10),
    "the same number": decode_step(6, 6, 10),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_step_is_told_whole(name: str) -> None:
    step = OTHERS[name]
    if name != "other candidates":
        step = dataclasses.replace(step, wanted=WANTED)
    assert told(decode_step(6, 5, 9), step) is step


@pytest.mark.parametrize(
    "last", [None, step_of(6, [Rows([1, 2], 4, seat=1), Rows([3], 9, seat=4)]), step_of(6, [])]
)
def test_nothing_follows_from_a_prompt_or_from_nothing(last: Step | None) -> None:
    if last is not None:
        last = dataclasses.replace(last, wanted=WANTED, logit_rows=np.array([0, 1], np.int32))
    step = decode_step(7, 6, 10)
    assert told(last, step) is step
    with pytest.raises(ValueError, match="step 7 of 2 rows can't follow from the one before it"):
        advanced(last, Advance(7, step.token_ids))


def test_as_many_tokens_as_rows_are_needed() -> None:
    with pytest.raises(ValueError, match="step 7 of 3 rows can't follow from the one before it"):
        advanced(decode_step(6, 5, 9), Advance(7, np.zeros(3, np.int32)))


# What a rank makes of them.


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(file, make_spec())
    return file


def rank_of(path: Path, limits: Limits = LIMITS) -> Rank:
    file, spec = open_model(path)
    return Rank(file, spec, make_plan(spec, [1])[0], 1, limits)


def snapshot(rank: Rank) -> list[bytes]:
    return [rank.device.view(name).tobytes() for name in ("step", "rope", "embedding")]


@given(st.data())
@examples(60)
def test_a_rank_writes_the_same_whichever_way_a_step_is_told(path: Path, data: st.DataObject) -> None:
    limits = data.draw(
        st.sampled_from([LIMITS, SLOTTED, dataclasses.replace(LIMITS, block_length=64, num_blocks=8)])
    )
    whole, short = rank_of(path, limits), rank_of(path, limits)
    positions = [data.draw(st.integers(1, 50)) for _ in range(data.draw(st.integers(1, 3)))]
    slots = [(seat, seat) if limits.num_slots else (-1, -1) for seat in range(3)]
    num_blocks = limits.blocks_per_seat
    tables = {seat: [(seat + index) % limits.num_blocks for index in range(num_blocks)] for seat in range(3)}
    for number in range(1, 12):
        rows = [
            Rows([data.draw(st.integers(0, 47))], position + number, seat, *slots[seat])
            for seat, position in enumerate(positions)
        ]
        step = step_of(number, rows, range(len(rows)), tables if number == 1 else ())
        if number > 1:
            short.writer.write_next(step)
        else:
            short.writer.write(step)
        whole.writer.write(step)
        assert snapshot(short) == snapshot(whole)
        assert short.writer.in_one_part == whole.writer.in_one_part


def follow(rank: Rank, number: int, *positions: int) -> Step:
    """A step that goes on from its last one; it is not written."""
    return step_of(number, [Rows([7], position, seat) for position, seat in zip(positions, (1, 4))])


def assert_refused(rank: Rank, step: Step, sentence: str) -> None:
    before = snapshot(rank)
    with pytest.raises(StepError, match=sentence):
        rank.writer.write_next(step)
    assert snapshot(rank) == before


def test_what_follows_is_checked_as_any_step(path: Path) -> None:
    rank = rank_of(path)
    rank.writer.write(step_of(1, [Rows([5], 13, seat=1), Rows([8], 61, seat=4)], tables=TABLES))
    step = follow(rank, 2, 14, 62)
    for token in (-1, 48):
        wrong = dataclasses.replace(step, token_ids=np.array([7, token], np.int32))
        assert_refused(rank, wrong, "a token id from")
    assert_refused(rank, dataclasses.replace(step, number=3), "step 3 came after step 1")
    rank.writer.write_next(step)
    rank.writer.write_next(follow(rank, 3, 15, 63))
    assert_refused(rank, follow(rank, 4, 16, 64), "a position from 16 to 64; 0 to 63 are possible")
    rank.writer.write(step_of(4, [Rows([5], 15, seat=1)]))
    assert_refused(rank, follow(rank, 5, 16), "the block table of seat 1 has no block at place 4")


def test_the_last_positions_of_a_context_end_it_within_a_block(path: Path) -> None:
    rank = rank_of(path, dataclasses.replace(LIMITS, context_length=62))
    rank.writer.write(step_of(1, [Rows([5], 60, seat=4)], tables=TABLES))
    rank.writer.write_next(step_of(2, [Rows([5], 61, seat=4)]))
    assert_refused(
        rank, step_of(3, [Rows([5], 62, seat=4)]), "a position from 62 to 62; 0 to 61 are possible"
    )


def test_states_that_move_are_written_anew(path: Path) -> None:
    whole, short = rank_of(path, SLOTTED), rank_of(path, SLOTTED)
    first = step_of(1, [Rows([5], 4, 1, read_slot=2, write_slot=3)], tables=TABLES)
    second = step_of(2, [Rows([5], 5, 1, read_slot=3, write_slot=3)])
    for rank in (whole, short):
        rank.writer.write(first)
    whole.writer.write(second)
    short.writer.write_next(second)
    assert snapshot(short) == snapshot(whole)


def run(worker: Worker, message: Step | Advance | FetchRows) -> bytes:
    answer = worker.answer(message)
    assert isinstance(answer, StepDone | FetchedRows)
    return answer.logits.tobytes()


def test_a_worker_computes_the_same_bits_whichever_way_a_step_is_told(worker: Worker) -> None:
    """Two texts, by one after another: one is told whole at every step, the other one by its tokens."""
    wanted = Wanted(whole_rows=np.array([0], np.int32))
    found: dict[int, list[bytes]] = {2: [], 3: []}
    number = 0
    for seat, is_short in ((2, False), (3, True)):
        blocks = {seat: [seat * 4 + index for index in range(4)]}
        for position in range(12):
            number, token = number + 1, position * 3 % 48
            step = step_of(number, [Rows([token], position, seat)], [0], blocks if position == 0 else ())
            step = dataclasses.replace(step, wanted=wanted)
            shortens = is_short and position not in (0, 7)  # 7 is told whole between others
            message = Advance(number, step.token_ids) if shortens else step
            found[seat].append(run(worker, message))
            assert run(worker, FetchRows(number, np.array([0], np.int32))) == found[seat][-1]
    assert found[2] == found[3] and len(set(found[2])) == 12


def test_a_worker_refuses_to_go_on_from_nothing(worker: Worker) -> None:
    with pytest.raises(ValueError, match="step 1 of 1 rows can't follow from the one before it"):
        worker.answer(Advance(1, np.zeros(1, np.int32)))
