"""Turns a program's all-reduces into ones around which partial sums travel in long runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tplaunch.worker.ops.exchange import MovePartials, Slots, Span
from tplaunch.worker.programs.program import Phase, Program, Segment

# Of a program from so many rows on: fewer are one run for each rank, and a dispatch more costs as much.
MANY_ROWS = 16
# What is sent behind a segment of each phase, and what is taken before the next one.
SENT: dict[Phase, tuple[Slots, Span]] = {
    Phase.ONE_SHOT: ("own", "all"),
    Phase.PARTIALS: ("own", "rest"),
    Phase.SLICES: ("sum", "slice"),
    Phase.HOSTS: ("own", "all"),
}
TAKEN: dict[Phase, tuple[Slots, Span]] = {
    Phase.ONE_SHOT: ("peers", "all"),
    Phase.PARTIALS: ("peers", "slice"),
    Phase.SLICES: ("sum", "rest"),
    Phase.HOSTS: ("sum", "all"),
}


def with_moves(program: Program, wire: str = "f32", hosts_touch_sums: bool = False) -> Program:
    """The same program, in which partial sums are written to the device's own memory, sent and taken.

    wire: of numbers that may be rounded, which sums are not: one phase and two give the same bits.
    hosts_touch_sums: what a rank sent may come back as another number, so it takes that, too.
    """
    segments: list[Segment] = []
    before: MovePartials | None = None
    for segment in program.segments:
        ops = segment.ops if before is None else (before, *segment.ops)
        if segment.parity is None:
            segments.append(replace(segment, ops=ops))
            continue
        sent, before = _moves(segment, wire, hosts_touch_sums)
        segments.append(replace(segment, ops=(*ops, sent), wire=sent.wire))
    return replace(program, segments=tuple(segments))


def _moves(segment: Segment, wire: str, hosts_touch_sums: bool) -> tuple[MovePartials, MovePartials]:
    assert segment.parity is not None, "nothing is all-reduced"
    may_round = not segment.is_exact and segment.phase in (Phase.ONE_SHOT, Phase.PARTIALS)
    of_both = {"row_length": segment.row_length, "wire": wire if may_round else "f32"}
    slots, span = TAKEN[segment.phase]
    if hosts_touch_sums and slots == "peers":
        slots = "all"
    return (
        MovePartials(segment.parity, True, *SENT[segment.phase], **of_both),  # type: ignore[arg-type]
        MovePartials(segment.parity, False, slots, span, **of_both),  # type: ignore[arg-type]
    )


def moves(program: Program) -> Iterator[MovePartials]:
    """Yields the moves of a program in their order."""
    for segment in program.segments:
        for op in segment.ops:
            if isinstance(op, MovePartials):
                yield op
