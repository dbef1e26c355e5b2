"""Describes the memory that a plan keeps for sequences: positions of the KV cache, and recurrent states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.fitting.fit import mebibytes
from tplaunch.worker.buffers.table import cache_buffers


def kept_numbers(spec: ModelSpec, arrangement: Arrangement) -> dict[str, Any]:
    """Returns the numbers for JSON: positions of all sequences together, bytes of all ranks."""
    limits = arrangement.limits
    cache_bytes = sum(rank.cache for rank in arrangement.bytes)
    return {
        "parallel": limits.max_sequences,
        "kv_positions": limits.num_blocks * limits.block_length,
        "window_kv_positions": limits.num_window_blocks * limits.block_length,
        "kv_bytes": cache_bytes,
        "kv_bytes_without_windows": _bytes_without_windows(spec, arrangement),
        "state_snapshots": num_snapshots(limits),
        "state_bytes": sum(rank.states for rank in arrangement.bytes),
    }


def num_snapshots(limits: Limits) -> int:
    """State slots beyond those of running sequences."""
    return max(0, limits.num_slots - limits.max_sequences)


def _bytes_without_windows(spec: ModelSpec, arrangement: Arrangement) -> int:
    """Bytes of the KV cache if layers with a window held as many positions as the others would."""
    limits = arrangement.limits
    num_blocks = limits.num_blocks or limits.blocks_per_seat
    whole = replace(limits, num_blocks=num_blocks, num_window_blocks=num_blocks)
    buffers = (cache_buffers(spec, share, whole) for share in arrangement.plan)
    return sum(buffer.nbytes for held in buffers for buffer in held.values())


def kept_text(spec: ModelSpec, arrangement: Arrangement) -> list[str]:
    """Sentences of what there is to say."""
    found, limits = kept_numbers(spec, arrangement), arrangement.limits
    is_one = limits.max_sequences == 1  # which has room for the context, as the plan says
    many = "" if is_one else f" of {limits.max_sequences} sequences at once"
    sentences = []
    if limits.num_blocks and not is_one:
        sentences.append(f"KV cache: {found['kv_positions']} positions{many}")
    if limits.num_window_blocks:
        windowed = sum(layer.window is not None for layer in spec.attentions)
        part = found["kv_bytes"] / found["kv_bytes_without_windows"]
        sentences.append(
            f"{windowed} of {len(spec.attentions)} layers with attention have a window of at most"
            f" {spec.longest_window} and hold {found['window_kv_positions']} positions{many}: the KV cache"
            f" takes {mebibytes(found['kv_bytes'])}, {part:.1%} of what it would without windows"
        )
    if limits.num_slots:
        one = found["state_bytes"] // limits.num_slots
        sentences.append(
            f"recurrent states: {mebibytes(one)} each, of {limits.max_sequences} running and"
            f" {found['state_snapshots']} kept for prompts that begin alike (--state-cache)"
        )
    return sentences
