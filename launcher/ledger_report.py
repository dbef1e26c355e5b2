"""Shows a ledger, whose kinds coordinator/ledger.py defines: a table for people, plain data for scripts."""

from __future__ import annotations

from typing import Any

from coordinator.ledger import KINDS, Ledger
from launcher.table import format_table


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    return {
        "steps": ledger.num_steps,
        "step_microseconds": ledger.step,
        "microseconds_by_rank": list(ledger.ranks),
    }


def ledger_table(ledger: Ledger) -> str:
    """A row per rank, a column per kind, and their sum; and what is not known."""
    rows = [
        (str(rank), *(_microseconds(kinds.get(kind)) for kind in KINDS), _microseconds(sum(kinds.values())))
        for rank, kinds in enumerate(ledger.ranks)
    ]
    notes = [
        f"\nrank {rank}: its device has no timestamps; what it computed is in the other kinds"
        for rank, kinds in enumerate(ledger.ranks)
        if "device" not in kinds
    ]
    return format_table(("rank", *KINDS, "step"), rows) + "".join(notes)


def _microseconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}"
