"""Finds the device to blame for a failed run: where a driver crashed, or which ranks made no numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.worker.device import CHECK_HELP, CHECKING, COMPILING

TAIL_BYTES = 1 << 14  # of a log: what a worker says last


def crashed_kernel(log: Path) -> str:
    """Says for a worker that is gone what it was compiling or checking, to end a sentence; else nothing."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if " worker " in line), "")
    for begun in (CHECKING, COMPILING):
        _, found, kernels = last.partition(f" worker {begun} ")
        if found:
            return f" while it was {begun} {kernels}; {CHECK_HELP}"
    return ""


def suspects(tokens: Collection[int], plan: Sequence[RankShare], choices: Sequence[DeviceChoice]) -> str:
    """The ranks whose slices of the vocabulary hold these tokens, their devices, and how to check these.

    Those of earlier stages may have made what the last one could only go on with.
    """
    last = max(share.first_layer for share in plan)
    ranks = [
        share.rank
        for share in plan
        if share.first_layer < last
        or any(share.vocabulary.start <= token < share.vocabulary.stop for token in tokens)
    ]
    devices = dict.fromkeys(choices[rank] for rank in ranks)
    which = "every rank" if len(ranks) == len(plan) > 1 else f"rank {', '.join(map(str, ranks))}"
    where = "; ".join(f"{one.name}, driver {one.driver}" if one.driver else one.name for one in devices)
    indices = ",".join(str(choice.index) for choice in devices if choice.index is not None)
    advice = (
        f"; `tplaunch check --devices {indices}` tells whether it computes what it should" if indices else ""
    )
    return f"on {which} ({where}){advice}"
