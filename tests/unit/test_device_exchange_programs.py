"""Programs in which devices exchange among themselves, as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import LocalEngine, make_spec, write_llama
from tplaunch.collectives.arena import WORD_ELEMENTS
from tplaunch.worker.ops.attention import AttentionCombine
from tplaunch.worker.ops.common import GatherNorm, MatMul, SumNorm
from tplaunch.worker.ops.exchange import Gather
from tplaunch.worker.programs.counting import count
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.program import Phase, Program, Segment, exchange_of
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
    exchanges = [exchange_of(op) for op in segment.ops]
    places = [place for place, gather in enumerate(exchanges) if gather is not None]
    assert [exchanges[place].index for place in places] == list(range(len(places)))  # type: ignore[union-attr]
    *others, last = places
    for place in others:
        before, together = segment.ops[place - 1 : place + 1]
        assert isinstance(before, MatMul) and isinstance(together, GatherNorm)
        assert before.parity == together.gather.parity == together.norm.parity
    before, gather, after = segment.ops[last - 1 : last + 2]
    assert isinstance(gather, Gather) and isinstance(after, SumNorm) and after.rows == "logit_rows"


def test_only_what_adds_up_all_rows_is_one_with_the_exchange() -> None:
    rows = SumNorm("hidden", None, 32, 1e-5, "normed", "rows", "partials", 0)
    chosen = replace(rows, rows="logit_rows")
    other, short = Segment((rows,), None), Segment((), 0, row_length=2)
    for first, second, together in [
        (Segment((), 0), Segment((rows, rows), None), [GatherNorm, SumNorm]),
        (Segment((), 0), Segment((chosen,), None), [Gather, SumNorm]),
        (Segment((), 1), other, [Gather, SumNorm]),
        (short, other, [Gather, SumNorm]),
    ]:
        (segment,) = with_exchanges(Program(1, 1, (first, second))).segments
        assert [type(op) for op in segment.ops] == together


def test_a_layer_is_eight_dispatches_and_a_token_one_submission(tmp_path: Path) -> None:
    """But for what puts the parts of attention together, where there are several."""
    dispatches = []
    for num_layers in (2, 3):
        path = tmp_path / f"{num_layers}.gguf"
        write_llama(path, make_spec(num_layers=num_layers))
        rank = LocalEngine(path, [1, 1]).ranks[0]
        program = with_exchanges(build_program(rank.spec, rank.share, rank.shards, 2, 1, 1))
        assert count(program, 2, 32, 8, "f32").submissions == 1
        (segment,) = program.segments
        dispatches.append(sum(not isinstance(op, AttentionCombine) for op in segment.ops))
    assert dispatches[1] - dispatches[0] == 8
