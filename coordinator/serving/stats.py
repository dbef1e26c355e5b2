"""A snapshot of what a driver does, for metrics and for those who ask whether it is well.

It is made in the thread that asks, from numbers that the driver's thread keeps anyway, without a lock: each
is right by itself, and two of them may be a step apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tplaunch.coordinator.measuring.ledger import Ledger, make_ledger
from tplaunch.coordinator.serving.requests import Requests

State = Literal["ok", "stalled", "restarting", "ended"]


@dataclass(frozen=True)
class Health:
    """Tells whether requests are computed; where they are not, `reason` is a sentence that says why."""

    state: State = "ok"
    reason: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.state == "ok"


@dataclass(frozen=True)
class Stats:
    """Counts of requests and blocks as they are now, and of all steps since the model was loaded."""

    num_running: int  # requests that have a text with a seat
    num_waiting: int  # requests of which no text has one
    num_sequences: int  # texts that have a seat
    num_blocks_used: int  # of the KV cache, that texts hold now; what is only kept to be found is free
    num_blocks: int  # of the KV cache
    kv_usage: float  # 0 to 1, of the fullest kind of memory: blocks, blocks in windows or states
    cache_tokens_queried: int  # counter: tokens of texts that looked into the prefix cache
    cache_tokens_hit: int  # counter: of them those that were found
    num_preemptions: int  # counter
    num_restarts: int  # counter: how often ranks were started again
    num_steps: int  # counter
    step_seconds: float  # counter: the time of all steps
    num_prompt_tokens: int  # counter: tokens of prompts that were computed, again after a preemption
    num_generated_tokens: int  # counter
    is_busy: bool  # something is computed or waits
    seconds_in_step: float | None  # how long the step that runs has been running; None between steps
    seconds_since_step: float | None  # since the last one ended; None before the first
    rank_seconds: tuple[Mapping[str, float], ...]  # counters: seconds by the ledger's kind, of each rank

    @property
    def ledger(self) -> Ledger | None:
        """The mean microseconds of a step by kind of each rank; None before the first step."""
        if not self.num_steps:
            return None
        totals = [{kind: seconds * 1e6 for kind, seconds in rank.items()} for rank in self.rank_seconds]
        made = make_ledger(totals, self.num_steps, self.step_seconds)
        # The last step may be in the one number, and not yet in the other.
        ranks = tuple({kind: max(0.0, spent) for kind, spent in rank.items()} for rank in made.ranks)
        return Ledger(made.num_steps, made.step, ranks)


def read_stats(
    requests: Requests, seconds_in_step: float | None, seconds_since_step: float | None, num_restarts: int = 0
) -> Stats:
    """Makes a snapshot. Any thread may call this."""
    counts, memory = requests.counts, requests.memory
    running, waiting = requests.numbers()
    pools = memory.pools
    blocks = [table.pool for table in memory.tables]
    return Stats(
        num_running=len(running),
        num_waiting=len(waiting - running.keys()),
        num_sequences=sum(running.values()),
        num_blocks_used=sum(pool.size - pool.num_available for pool in blocks),
        num_blocks=sum(pool.size for pool in blocks),
        kv_usage=max((1 - pool.num_available / pool.size for pool in pools if pool.size), default=0.0),
        cache_tokens_queried=counts.cache_tokens_queried,
        cache_tokens_hit=counts.cache_tokens_hit,
        num_preemptions=counts.num_preemptions,
        num_restarts=num_restarts,
        num_steps=counts.num_steps,
        step_seconds=counts.step_seconds,
        num_prompt_tokens=counts.num_prompt_tokens,
        num_generated_tokens=counts.num_generated_tokens,
        is_busy=len(requests) > 0,
        seconds_in_step=seconds_in_step,
        seconds_since_step=seconds_since_step,
        rank_seconds=tuple(
            {kind: microseconds / 1e6 for kind, microseconds in rank.items()}
            for rank in requests.rank_microseconds()
        ),
    )
