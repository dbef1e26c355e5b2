"""Accounts for the time of steps: microseconds by rank and kind; a rank's kinds add up to the step.

Each instant of a step belongs to exactly one kind on each rank. `device` goes before the others: what the
host does while its device computes costs nothing, so the others are what it did while the device did not.

    device       the device computed. Not known where it has no timestamps, or they were not asked for: it is
                 then in `wait`, and what was hidden behind it in `submit` and `host`.
    wait         the host waited for an idle device: submission, wake-up, copies of partial sums
    reduce       in the all-reduce: other ranks of the host that come later, flags, copies
    wire         with several hosts: in the all-reduce among them, which includes hosts that come later
    handover     with several stages: the stage before this one computed, or what it left was on its way
    submit       in the driver: submissions, releases of the next segment
    host         the rank's own Python: step buffers, preparing a program, reading logits
    coordinator  the rank had no step: messages, slower ranks, sampling, scheduling, printing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.measuring.reduce_times import ReduceTimes

SOMETIMES = ("wire", "handover")  # kinds that a run may not have
KINDS = ("device", "wait", "reduce", "wire", "handover", "submit", "host", "coordinator")


@dataclass(frozen=True)
class Ledger:
    """Mean microseconds of a step."""

    num_steps: int
    step: float
    ranks: tuple[dict[str, float], ...]  # by kind; a kind that was not measured is missing
    reduce_times: ReduceTimes | None = None  # where every rank's device has timestamps
    sent_per_token: tuple[float, ...] = ()  # bytes in messages to other ranks, by rank
    turn: float | None = None  # the coordinator's own part, between a step's last answer and the next step


def make_ledger(
    totals: Sequence[Mapping[str, float]],
    num_steps: int,
    seconds: float,
    reduce_times: ReduceTimes | None = None,
    sent_per_token: tuple[float, ...] = (),
    turn_seconds: float | None = None,
) -> Ledger:
    """Makes a ledger from the ranks' sums over `num_steps` steps, which took `seconds` in all.

    What a rank does not account for is the coordinator's.
    """
    assert num_steps > 0, "a ledger of no steps"
    step = seconds * 1e6 / num_steps
    ranks = []
    for total in totals:
        of_rank = {kind: total[kind] / num_steps for kind in KINDS if kind in total}
        of_rank["coordinator"] = step - sum(of_rank.values())
        ranks.append(of_rank)
    turn = None if turn_seconds is None else turn_seconds * 1e6
    return Ledger(num_steps, step, tuple(ranks), reduce_times, sent_per_token, turn)
