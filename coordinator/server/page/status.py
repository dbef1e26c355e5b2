"""Tells the page what it shows beside a conversation: what is computed now, and where the ranks' time goes.

All counters of a driver only grow; what happens now is the difference of two snapshots.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tplaunch.coordinator.measuring.ledger import Ledger, make_ledger
from tplaunch.coordinator.serving.stats import Health, Stats

LEAST_SECONDS = 0.4  # between two snapshots: any number of pages may ask
SPAN_SECONDS = 1.5  # over which rates are means, where somebody asks often enough


@dataclass(frozen=True)
class RankFacts:
    """A rank as it was planned."""

    device: str  # its name
    share: float  # of the model, 0 to 1


@dataclass(frozen=True)
class ModelFacts:
    """The loaded model, as the page shows it."""

    name: str  # by which clients know it
    version: str  # of tplaunch
    has_template: bool  # it answers conversations; without one it continues texts
    context_length: int
    ranks: Sequence[RankFacts]


@dataclass(frozen=True)
class _Snapshot:
    seconds: float
    stats: Stats


class Watch:
    """Makes the page's status from a driver's snapshots. It is used in one thread."""

    def __init__(
        self,
        facts: ModelFacts,
        read: Callable[[], Stats],
        read_health: Callable[[], Health] = Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._facts, self._read, self._read_health, self._clock = facts, read, read_health, clock
        self._snapshots = deque([self._look()])
        self._ledger: Ledger | None = None  # of the last span in which there were steps

    def status(self) -> dict[str, Any]:
        """Returns what the page shows, for JSON. Times are microseconds of a step."""
        if self._clock() - self._snapshots[-1].seconds >= LEAST_SECONDS:
            self._advance()
        first, last = self._snapshots[0], self._snapshots[-1]
        seconds = max(last.seconds - first.seconds, LEAST_SECONDS)
        facts, now, before = self._facts, last.stats, first.stats
        ledger = self._ledger
        spent: Sequence[dict[str, float]] = ({},) * len(facts.ranks) if ledger is None else ledger.ranks
        return {
            "model": facts.name,
            "version": facts.version,
            "chat": facts.has_template,
            "context": facts.context_length,
            "health": asdict(self._read_health()),
            "tokens_per_second": {
                "generated": (now.num_generated_tokens - before.num_generated_tokens) / seconds,
                "prompt": (now.num_prompt_tokens - before.num_prompt_tokens) / seconds,
            },
            "kv": {"usage": now.kv_usage, "blocks": now.num_blocks, "blocks_used": now.num_blocks_used},
            "requests": {"running": now.num_running, "waiting": now.num_waiting},
            "step": {
                "number": now.num_steps,
                "microseconds": 0.0 if ledger is None else ledger.step,
                "is_running": now.num_steps > before.num_steps,
            },
            "ranks": [
                {"device": rank.device, "share": rank.share, "microseconds": kinds}
                for rank, kinds in zip(facts.ranks, spent, strict=True)
            ],
        }

    def _look(self) -> _Snapshot:
        return _Snapshot(self._clock(), self._read())

    def _advance(self) -> None:
        """Takes a snapshot, and forgets those before the span."""
        self._snapshots.append(self._look())
        last = self._snapshots[-1]
        while len(self._snapshots) > 2 and last.seconds - self._snapshots[1].seconds >= SPAN_SECONDS:
            self._snapshots.popleft()
        if len(self._snapshots) > 2 and last.seconds - self._snapshots[0].seconds > 2 * SPAN_SECONDS:
            self._snapshots.popleft()
        self._ledger = _ledger_between(self._snapshots[0].stats, last.stats) or self._ledger


def _ledger_between(before: Stats, now: Stats) -> Ledger | None:
    """The mean step between two snapshots; None where there was none."""
    num_steps = now.num_steps - before.num_steps
    if num_steps <= 0:
        return None
    totals = [
        {kind: max(0.0, seconds - then.get(kind, 0.0)) * 1e6 for kind, seconds in rank.items()}
        for rank, then in zip(now.rank_seconds, before.rank_seconds)
    ]
    made = make_ledger(totals, num_steps, now.step_seconds - before.step_seconds)
    # The last step may be in one number, and not yet in the other.
    ranks = tuple({kind: max(0.0, spent) for kind, spent in rank.items()} for rank in made.ranks)
    return Ledger(num_steps, made.step, ranks)
