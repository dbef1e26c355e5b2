"""Programs that move partial sums in long runs: as data, by what they count, and with NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import SPEC, LocalEngine, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.options import OptionError, RankOptions
from tplaunch.worker.ops.common import MatMul, SumSlice
from tplaunch.worker.ops.exchange import MovePartials
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.counting import count, least_bytes
from tplaunch.worker.programs.moving import moves, with_moves
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Phase, Program, Segment
from tplaunch.worker.programs.transformer import build_program

PARTIAL = MatMul(Matrix("m", "F32", 64, 64), None, "normed", "partials", 0, "rows", parity=0)
NUM_ROWS, LENGTH = 24, 64  # whole slices of two, three and four ranks
TABLES = {0: range(4)}
STEPS = (
    step_of(1, [Rows([3, 5, 7, 11, 2, 1, 4])], [6], TABLES),
    step_of(2, [Rows([9], 7)], [0], TABLES),
    step_of(3, [Rows([8], 8)], [0], TABLES),
)
# bfloat16 keeps eight bits: a number may be off by a 512th of itself.
BF16_ERROR = 2.0**-8


def program(*phases: Phase, row_length: int = 0) -> Program:
    ends = [Segment((PARTIAL,), number % 2, phase, row_length) for number, phase in enumerate(phases)]
    return Program(NUM_ROWS, 1, (*ends, Segment((), None)))


def kinds(moved: Program) -> list[tuple[bool, str, str, str]]:
    return [(op.sent, op.slots, op.span, op.wire) for op in moves(moved)]


def test_a_rank_sends_its_own_and_takes_its_peers() -> None:
    moved = with_moves(program(Phase.ONE_SHOT))
    first, last = moved.segments
    assert [type(op) for op in first.ops] == [MatMul, MovePartials] and len(last.ops) == 1
    assert kinds(moved) == [(True, "own", "all", "f32"), (False, "peers", "all", "f32")]
    touched = with_moves(program(Phase.ONE_SHOT), hosts_touch_sums=True)
    assert kinds(touched)[1] == (False, "all", "all", "f32")  # its own may be another number then
    assert kinds(with_moves(program(Phase.HOSTS)))[1] == (False, "sum", "all", "f32")
    assert moved.has_moves and not program(Phase.ONE_SHOT).has_moves


def test_sums_are_not_rounded_nor_what_must_be_exact() -> None:
    moved = with_moves(program(Phase.PARTIALS, Phase.SLICES), "bf16")
    assert kinds(moved) == [
        (True, "own", "rest", "bf16"),
        (False, "peers", "slice", "bf16"),
        (True, "sum", "slice", "f32"),
        (False, "sum", "rest", "f32"),
    ]
    assert [segment.wire for segment in moved.segments] == ["bf16", "f32", "f32"]
    exact = with_moves(program(Phase.ONE_SHOT, row_length=2), "bf16")
    assert {(op.wire, op.row_length) for op in moves(exact)} == {("f32", 2)}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("wire", ["f32", "bf16"])
def test_no_fewer_bytes_could_cross_the_bus(num_ranks: int, wire: str) -> None:
    for phases in ((Phase.ONE_SHOT,), (Phase.PARTIALS, Phase.SLICES)):
        moved = with_moves(program(*phases), wire)
        least = least_bytes(NUM_ROWS * LENGTH, num_ranks, len(phases) == 2, wire)
        for rank in range(num_ranks):
            found = count(moved, num_ranks, LENGTH, 1, "f16", rank=rank)
            assert (found.sent_bytes, found.taken_bytes) == least
        direct = count(program(*phases), num_ranks, LENGTH, 1, "f16")
        assert found.taken_bytes < direct.taken_bytes
    assert least_bytes(100, 4, False) == (400, 1200) and least_bytes(100, 4, True) == (400, 600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(path)
    return path


def logits(model: Path, num_ranks: int, wire: str | None, two_phase: bool) -> npt.NDArray[np.float32]:
    engine = LocalEngine(model, [1.0] * num_ranks, two_phase=two_phase)
    for rank in engine.ranks:
        rank.wire = wire
    found = np.concatenate([engine.logits(step).copy() for step in STEPS])
    held = [rank.device.view("final").tobytes() for rank in engine.ranks]
    assert len(set(held)) == 1 and any(held[0])  # the same bits on every rank
    return found


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_moving_changes_no_bit_and_rounding_changes_the_same_ones_in_both_phases(
    model: Path, num_ranks: int
) -> None:
    direct = logits(model, num_ranks, None, False)
    for two_phase in (False, True):
        assert np.array_equal(logits(model, num_ranks, "f32", two_phase), direct)
    rounded = [logits(model, num_ranks, "bf16", two_phase) for two_phase in (False, True)]
    assert np.array_equal(rounded[0], rounded[1])
    error = np.abs(rounded[0] - direct).max() / np.abs(direct).max()
    assert error < 4 * BF16_ERROR and (error > 0) == (num_ranks > 1)


def test_slices_are_summed_where_they_were_moved_to(model: Path) -> None:
    """The segment takes its slice of the peers' partial sums, sums, and sends that slice of the sum."""
    rank = LocalEngine(model, [1, 1]).ranks[0]
    built = build_program(SPEC, rank.share, rank.shards, 2, 4, 1, ProgramOptions(two_phase=True))
    between = with_moves(built).segments[1]
    assert [type(op) for op in between.ops] == [MovePartials, SumSlice, MovePartials]


@pytest.mark.parametrize(
    ("options", "moves_sums"),
    [({}, False), ({"sums": "moved"}, True), ({"wire": "bf16"}, True), ({"wire": "q8"}, False)],
)
def test_options_say_whether_all_ranks_have_memory_for_sums(
    options: dict[str, Any], moves_sums: bool
) -> None:
    assert RankOptions(**options).moves_sums is moves_sums


def test_only_known_ways_are_taken() -> None:
    with pytest.raises(OptionError, match="--sums elsewhere: known are auto, shared, moved"):
        RankOptions(sums="elsewhere")
