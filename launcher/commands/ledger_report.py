"""Shows a ledger (coordinator/measuring/ledger.py): a table for people, plain data for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tplaunch.coordinator.measuring.ledger import KINDS, SOMETIMES, Ledger
from tplaunch.coordinator.measuring.reduce_times import ReduceTimes
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.table import format_table


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    return {
        "steps": ledger.num_steps,
        "step_microseconds": ledger.step,
        "microseconds_by_rank": list(ledger.ranks),
        "sent_bytes_per_token_by_rank": list(ledger.sent_per_token),
        "coordinator_turn_microseconds": ledger.turn,
        "all_reduces": None if ledger.reduce_times is None else asdict(ledger.reduce_times),
    }


def ledger_table(ledger: Ledger) -> str:
    """A row per rank, a column per kind, and their sum; what is not known, and what all-reduces cost."""
    shown = [kind for kind in KINDS if kind not in SOMETIMES or any(kind in kinds for kinds in ledger.ranks)]
    rows = [
        (str(rank), *(_cell(kinds, kind) for kind in shown), _microseconds(sum(kinds.values())))
        for rank, kinds in enumerate(ledger.ranks)
    ]
    notes = [
        f"rank {rank}: its device has no timestamps; what it computed is in the other kinds"
        for rank, kinds in enumerate(ledger.ranks)
        if "device" not in kinds
    ]
    notes += [
        f"rank {rank} sent {sent / 1000:.4g} KB per token in messages to other ranks"
        for rank, sent in enumerate(ledger.sent_per_token)
        if sent
    ]
    if ledger.turn is not None:
        notes.append(
            f"coordinator: median {ledger.turn:.0f} us from a step's last answer until the next step was sent"
        )
    if ledger.reduce_times is not None:
        notes.append(_reduce_times(ledger.reduce_times))
    return "\n".join((format_table(("rank", *shown, "step"), rows), *map(wrapped, notes)))


def _cell(kinds: Mapping[str, float], kind: str) -> str:
    """Shows the time of a kind. A rank that waits for no other host or stage has spent none on it."""
    return _microseconds(kinds.get(kind, 0.0 if kind in SOMETIMES else None))


def _reduce_times(times: ReduceTimes) -> str:
    sizes = " to ".join(f"{size / 1000:.3g}" for size in sorted({times.min_bytes, times.max_bytes}))
    what = (
        "all-reduce among devices, with what adds up" if times.by_devices else "all-reduce beyond the device"
    )
    return (
        f"{what}: median {times.median_microseconds:.0f} us of {times.count}"
        f" ({times.num_ranks} ranks, {sizes} KB)"
    )


def _microseconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}"
