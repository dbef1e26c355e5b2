"""Tells what of a prompt's rows a device should compute from rounded numbers: each part for itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from tplaunch.worker.device import DeviceError, Rounding
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import Op
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan.measuring.rivals import attends, ops_of


def preferred(
    programs: Sequence[Program],
    prove: Callable[[Sequence[Program]], Sequence[str]],
    win: Callable[[Sequence[Program]], bool],
) -> tuple[Rounding, list[str]]:
    """Tells what of programs that have all rounded should have it so: products, attention, or both.

    Each is proved to be right first; of one that is not, or fails, a sentence comes back.
    """
    notes: list[str] = []

    def wins(part: Sequence[Program], told: str) -> bool:
        if not any(map(ops_of, part)):
            return False
        try:
            notes.extend(prove(part))
            return win(part)
        except DeviceError as error:
            notes.append(f"prompts {told} in float32: {error}")
            return False

    products = wins(_only(programs, lambda op: not isinstance(op, Attention)), "are multiplied")
    return Rounding(products, wins(_only(programs, attends), "attend")), notes


def _only(programs: Iterable[Program], belongs: Callable[[Op], bool]) -> list[Program]:
    """The programs with these ops alone."""
    return [
        dataclasses.replace(program, segments=(Segment(tuple(filter(belongs, ops_of(program))), None),))
        for program in programs
    ]
