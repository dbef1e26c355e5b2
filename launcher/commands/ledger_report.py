"""Shows a ledger (coordinator/measuring/ledger.py): a table for people, plain data for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tplaunch.coordinator.measuring.ledger import KINDS, Ledger
from tplaunch.coordinator.measuring.reduce_times import ReduceTimes
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.table import format_table


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    return {
        "steps": ledger.num_steps,
        "step_microseconds": ledger.step,
        "microseconds_by_rank": list(ledger.ranks),
        "all_reduces": None if ledger.reduce_times is None else asdict(ledger.reduce_times),
    }


def ledger_table(ledger: Ledger) -> str:
    """A row per rank, a column per kind, and their sum; what is not known, and what all-reduces cost."""
    rows = [
        (str(rank), *(_microseconds(kinds.get(kind)) for kind in KINDS), _microseconds(sum(kinds.values())))
        for rank, kinds in enumerate(ledger.ranks)
    ]
    notes = [
        f"rank {rank}: its device has no timestamps; what it computed is in the other kinds"
        for rank, kinds in enumerate(ledger.ranks)
        if "device" not in kinds
    ]
    if ledger.reduce_times is not None:
        notes.append(_reduce_times(ledger.reduce_times))
    return "\n".join((format_table(("rank", *KINDS, "step"), rows), *map(wrapped, notes)))


def _reduce_times(times: ReduceTimes) -> str:
    sizes = " to ".join(f"{size / 1000:.3g}" for size in sorted({times.min_bytes, times.max_bytes}))
    return (
        f"all-reduce beyond the device: median {times.median_microseconds:.0f} us of {times.count}"
        f" ({times.num_ranks} ranks, {sizes} KB)"
    )


def _microseconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}"
