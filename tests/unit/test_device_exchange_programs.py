"""Programs in which devices exchange among themselves, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import LocalEngine, make_spec, write_llama
from tplaunch.collectives.arena import WORD_ELEMENTS
from tplaunch.worker.ops.common import MatMul, SumNorm
from tplaunch.worker.ops.exchange import Gather
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.program import Phase, Program, Segment
from tplaunch.worker.programs.transformer import build_program


def ends(*phases: Phase, row_length: int = 0, rows: int = 1) -> Program:
    segments = [Segment((), number % 2, phase, row_length) for number, phase in enumerate(phases)]
    return Program(rows, 0, (*segments, Segment((), None)))


@pytest.mark.parametrize(
    ("program", "row_length", "can"),
    [
        (ends(Phase.ONE_SHOT), 4096, True),
        (ends(Phase.ONE_SHOT, rows=4), 4096, True),
        (ends(Phase.ONE_SHOT, rows=5), 4096, False),
        (ends(Phase.ONE_SHOT, row_length=8, rows=5), 4096, False),  # a product writes whole rows elsewhere
        (ends(Phase.ONE_SHOT), WORD_ELEMENTS + 32, False),
        (ends(Phase.ONE_SHOT, Phase.PARTIALS, Phase.SLICES), 32, False),
        (ends(Phase.HOSTS), 32, False),
        (ends(), 32, False),
    ],
)
def test_small_one_shot_all_reduces_can_be_left_to_the_devices(
    program: Program, row_length: int, can: bool
) -> None:
    assert can_exchange(program, row_length) is can


def test_a_model_of_two_ranks_is_one_segment_then(tmp_path: Path) -> None:
    """Twice a layer the devices exchange, between the product that writes partial sums and what adds them
    up."""
    write_llama(tmp_path / "m.gguf", make_spec())
    engine = LocalEngine(tmp_path / "m.gguf", [1, 1])
    rank = engine.ranks[0]
    program = with_exchanges(build_program(rank.spec, rank.share, rank.shards, 2, 1, 1))
    (segment,) = program.segments
    assert segment.parity is None and program.num_gathers == 2 * engine.ranks[0].spec.num_layers
    places = [place for place, op in enumerate(segment.ops) if isinstance(op, Gather)]
    assert [segment.ops[place].index for place in places] == list(range(len(places)))  # type: ignore[union-attr]
    for place in places:
        before, gather, after = segment.ops[place - 1 : place + 2]
        assert isinstance(before, MatMul) and isinstance(gather, Gather) and isinstance(after, SumNorm)
        assert before.parity == gather.parity == after.parity
