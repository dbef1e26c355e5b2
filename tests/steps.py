"""Steps made by hand: rows of sequences, their block tables whole or as changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tplaunch.coordinator.messages import Step

Tables = Mapping[int, Sequence[int]]  # blocks by seat


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of one sequence. Slots are of its recurrent state, -1 for none."""

    tokens: Sequence[int]
    start: int = 0  # position of the first row
    seat: int = 0
    read_slot: int = -1
    write_slot: int = -1


def step_of(
    number: int,
    rows: Sequence[Rows],
    logit_rows: Sequence[int] = (),
    tables: Tables | Sequence[int] = (),
    window_tables: Tables | Sequence[int] = (),
    **arrays: Any,
) -> Step:
    """Tables are told whole, or are changes. arrays: further fields of the step, or other ones."""
    columns: dict[str, Any] = {
        "token_ids": [token for run in rows for token in run.tokens],
        "runs": [
            number
            for run in rows
            for number in (run.seat, run.start, len(run.tokens), run.read_slot, run.write_slot)
        ],
        "logit_rows": logit_rows,
        "tables": changes_of(tables) if isinstance(tables, Mapping) else tables,
        "window_tables": changes_of(window_tables) if isinstance(window_tables, Mapping) else window_tables,
        **arrays,
    }
    fields: dict[str, Any] = {name: np.array([*column], np.int32) for name, column in columns.items()}
    return Step(number, **fields)


def changes_of(tables: Tables) -> list[int]:
    """Every entry as a change."""
    return [
        number
        for seat, blocks in tables.items()
        for index, block in enumerate(blocks)
        for number in (seat, index, block)
    ]


def positions_of(step: Step) -> list[int]:
    """By row."""
    runs = step.runs.reshape(-1, 5).tolist()
    return [start + row for _, start, length, _, _ in runs for row in range(length)]
