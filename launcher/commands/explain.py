"""`tplaunch plan --explain`: what one token asks of each rank's device, counted from the programs as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare, padded
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.model import Model
from tplaunch.launcher.near_cores import core_text
from tplaunch.launcher.table import format_table
from tplaunch.worker.ops.exchange import WIRE_BYTES
from tplaunch.worker.programs.counting import StepCounts, count
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.moving import with_moves
from tplaunch.worker.programs.transformer import build_program
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
)
BY_HOSTS, BY_DEVICES = "hosts", "devices"
ONE_SHOT, TWO_PHASE = "one-shot", "two-phase"
PROMPT_ROWS = 512  # for which passes over the weights are counted


def explained(model: Model, arrangement: Arrangement) -> dict[str, list[StepCounts]]:
    """Counts a token at half of the context, by who exchanges partial sums; each a list by rank.

    "devices" is missing where a program does not allow that.
    """
    found: dict[str, list[StepCounts]] = {BY_HOSTS: [], BY_DEVICES: []}
    for share in arrangement.plan:
        group = [other for other in arrangement.plan if other.first_layer == share.first_layer]
        by_hosts, by_devices = _counts(model, arrangement, share, len(group))
        found[BY_HOSTS].append(by_hosts)
        if by_devices is not None:
            found[BY_DEVICES].append(by_devices)
    return {who: counts for who, counts in found.items() if len(counts) == len(arrangement.plan)}


def _counts(
    model: Model, arrangement: Arrangement, share: RankShare, num_ranks: int
) -> tuple[StepCounts, StepCounts | None]:
    spec, limits = model.spec, arrangement.limits
    shards = rank_shards(spec, share, model.tensors)
    program = build_program(
        spec, share, shards, num_ranks, 1, int(share.ends(spec)), activations=limits.may_be_activations
    )
    row_length, num_keys = padded(spec.embedding_length), max(1, limits.context_length // 2)
    of_step = num_ranks, row_length, num_keys, limits.kv_type
    exchanges = not spec.is_recurrent and can_exchange(program, row_length)
    by_devices = count(with_exchanges(program), *of_step) if exchanges else None
    return count(program, *of_step), by_devices


def explained_prompt(model: Model, arrangement: Arrangement, wire: str) -> dict[str, list[StepCounts]]:
    """Counts a step of as many rows of a prompt as there may be, on devices with memory of their own.

    By how they all-reduce; each a list by rank, empty where there is one rank. wire: of partial sums.
    """
    found: dict[str, list[StepCounts]] = {}
    spec, limits, plan = model.spec, arrangement.limits, arrangement.plan
    inside = wire if wire in WIRE_BYTES else "f32"
    row_length, num_keys = padded(spec.embedding_length), max(1, limits.context_length // 2)
    for share in plan:
        num_ranks = sum(other.first_layer == share.first_layer for other in plan)
        if num_ranks == 1:
            continue
        shards = rank_shards(spec, share, model.tensors)
        for name in (ONE_SHOT, TWO_PHASE)[: 1 + (num_ranks > 2)]:
            program = build_program(
                spec,
                share,
                shards,
                num_ranks,
                limits.max_rows,
                int(share.ends(spec)),
                activations=limits.may_be_activations,
                two_phase=name == TWO_PHASE,
            )
            of_step = num_ranks, row_length, num_keys, limits.kv_type
            found.setdefault(name, []).append(count(with_moves(program, inside), *of_step, rank=share.index))
    return found


def explained_text(model: Model, arrangement: Arrangement, wire: str) -> str:
    """Returns the counts as tables with a sentence before each."""
    parts = []
    for who, counts in explained(model, arrangement).items():
        keys = max(1, arrangement.limits.context_length // 2)
        parts += [
            wrapped(
                f"A token behind {keys} others, where {who} exchange partial sums; sent and taken are a"
                " device's bytes of one all-reduce, read those of weights, keys and values:"
            ),
            format_table(TITLES, [_cells(rank, of_rank) for rank, of_rank in enumerate(counts)]),
        ]
    for name, counts in explained_prompt(model, arrangement, wire).items():
        parts += [
            wrapped(
                f"A step of {arrangement.limits.max_rows} rows of a prompt on devices with memory of their"
                f" own, {name}: each sends its partial sums in long runs, and takes its peers' only:"
            ),
            format_table(TITLES, [_cells(rank, of_rank) for rank, of_rank in enumerate(counts)]),
        ]
    if any(not choice.on_cpu for choice in arrangement.choices):
        rows = arrangement.limits.max_rows
        parts.append(
            wrapped(
                f"{PROMPT_ROWS} rows of a prompt are steps of up to {rows}; on a card they pass over the"
                f" weights {passes(rows)} times, once for each tile of {TILE_ROWS} rows."
            )
        )
    parts += [wrapped(sentence) for sentence in places_of_ranks(arrangement.choices, usable_cores())]
    return "\n".join(parts)


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
        one_of = "one of " if choice.on_cpu and len(pinned) > 1 else ""
        plural = "s" * (len(pinned) > 1)
        found.append(f"Rank {rank} runs on {one_of}the core{plural} {core_text(pinned)}{near}.")
    return found


def _cells(rank: int, counts: StepCounts) -> Sequence[str]:
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


def _as_json(found: dict[str, list[StepCounts]]) -> dict[str, Any]:
    return {
        name: [{**dataclasses.asdict(of_rank), "loads": of_rank.loads} for of_rank in counts]
        for name, counts in found.items()
    }
