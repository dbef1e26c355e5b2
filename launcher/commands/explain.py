"""`tplaunch plan --explain`: what one token asks of each rank's device, counted from the programs as data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tplaunch.coordinator.split.placement import HEAD
from tplaunch.launcher.commands.explain_counts import Explained, explained, explained_prompt, moves_sums
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.model import Model
from tplaunch.launcher.near_cores import core_text
from tplaunch.launcher.table import format_table
from tplaunch.worker.vulkan.variants import TILE_ROWS

TITLES = (
    "rank",
    "dispatches",
    "submissions",
    "waits",
    "all-reduces",
    "sent",
    "taken",
    "read",
    "16-byte loads",
    "in flight",
)
PROMPT_ROWS = 512  # for which passes over the weights are counted


def explained_text(model: Model, arrangement: Arrangement, wire: str) -> str:
    """Returns the counts as tables with a sentence before each."""
    parts = []
    for who, counts in explained(model, arrangement).items():
        keys = max(1, arrangement.limits.context_length // 2)
        parts += [
            wrapped(
                f"A token behind {keys} others, where {who} exchange partial sums; sent and taken are a"
                " device's bytes of one all-reduce, read those of weights, keys and values, in flight those"
                " of weights that a card's products have asked for at a time, on average, by the kernels that"
                " it was measured to be fastest with, or the usual ones:"
            ),
            format_table(TITLES, [_cells(rank, of_rank) for rank, of_rank in enumerate(counts)]),
        ]
    rows = arrangement.limits.max_rows
    for name, counts in explained_prompt(model, arrangement, wire).items():
        parts += [
            wrapped(_prompt_sentence(arrangement, rows, name)),
            format_table(TITLES, [_cells(rank, of_rank) for rank, of_rank in enumerate(counts)]),
        ]
    if any(not choice.on_cpu for choice in arrangement.choices):
        parts.append(
            wrapped(
                f"{PROMPT_ROWS} rows of a prompt are steps of up to {rows}; on a card they pass over the"
                f" weights {passes(rows)} times, once for each tile of {TILE_ROWS} rows."
            )
        )
    parts += [wrapped(sentence) for sentence in places_of_ranks(arrangement.choices, usable_cores())]
    return "\n".join(parts)


def _prompt_sentence(arrangement: Arrangement, rows: int, name: str) -> str:
    """Says what a table of a prompt's step counts, and how partial sums travel in it, if there are any."""
    group = max(Counter(share.first_layer for share in arrangement.plan).values())
    how = "" if group == 1 else f", {name}"
    if group > 1 and any(moves_sums(choice, rows) for choice in arrangement.choices):
        how = (
            f" on devices with memory of their own{how}: each sends its partial sums in long runs, and takes"
            " its peers' only"
        )
    return f"A step of {rows} rows of a prompt{how}:"


def passes(step_rows: int) -> int:
    """Counts how often PROMPT_ROWS rows read all weights, in steps of so many rows."""
    steps, rest = divmod(PROMPT_ROWS, step_rows)
    return steps * -(-step_rows // TILE_ROWS) + -(-rest // TILE_ROWS)


def places_of_ranks(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[str]:
    """Says on which cores the ranks of this host run. cores: those that this process may use."""
    own = [choice for choice in choices if choice.host == HEAD]
    found = []
    for rank, (choice, pinned) in enumerate(zip(own, rank_cores(own, cores), strict=True)):
        near = ", near its card" if choice.near_cores.intersection(pinned) else ""
        one_of = "one of " if choice.takes_one_core and len(pinned) > 1 else ""
        plural = "s" * (len(pinned) > 1)
        found.append(f"Rank {rank} runs on {one_of}the core{plural} {core_text(pinned)}{near}.")
    return found


def _cells(rank: int, of_rank: Explained) -> Sequence[str]:
    counts = of_rank.counts
    return (
        str(rank),
        str(counts.dispatches),
        str(counts.submissions),
        str(counts.host_waits),
        str(counts.all_reduces),
        _bytes(counts.sent_bytes),
        _bytes(counts.taken_bytes),
        _bytes(counts.read_bytes),
        f"{counts.loads / 1e6:.2f} M",
        _bytes(of_rank.in_flight_bytes) if of_rank.in_flight_bytes else "-",
    )


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"


def explained_numbers(model: Model, arrangement: Arrangement, wire: str) -> dict[str, Any]:
    """Returns the same for JSON."""
    prompt = explained_prompt(model, arrangement, wire)
    return {
        "token": _as_json(explained(model, arrangement)),
        "prompt": {"rows": arrangement.limits.max_rows, **_as_json(prompt)},
    }


def _as_json(found: dict[str, list[Explained]]) -> dict[str, Any]:
    return {name: [_numbers(of_rank) for of_rank in counts] for name, counts in found.items()}


def _numbers(of_rank: Explained) -> dict[str, int]:
    counts = of_rank.counts
    in_flight = {"in_flight_bytes": of_rank.in_flight_bytes}
    return {**dataclasses.asdict(counts), "loads": counts.loads, **in_flight}
