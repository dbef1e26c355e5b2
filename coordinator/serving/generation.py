"""Continues sequences: runs steps on the engine, samples, and says why and how fast each one ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.sampling.batch import Pick, pick_all
from tplaunch.coordinator.serving.sampling.evidence import Wants
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.serving.sampling.results import gather
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.serving.scheduler import Run, Scheduler, Sequence

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Seconds and token counts of one generation."""

    prompt_tokens: int
    prompt_seconds: float  # until the first token was sampled
    tokens: int
    decode_seconds: float  # for the tokens after the first


@dataclass
class Generation:
    """One sequence's continuation: iterate for its tokens, then read why it ended and how long it took."""

    engine: Engine
    scheduler: Scheduler
    prompt: list[int]
    sampler: Sampler
    max_tokens: int
    context_length: int
    stop_tokens: frozenset[int]
    finish_reason: str = ""
    timings: Timings | None = None

    def __iter__(self) -> Iterator[int]:
        """Yields tokens as they are sampled; a stop token ends it and is not yielded."""
        sequence = Sequence(list(self.prompt))
        self.scheduler.add(sequence)
        started = first = time.perf_counter()
        num_made = 0
        try:
            while not self.finish_reason:
                generated = sequence.tokens[len(self.prompt) :]
                token = next_token(self.engine, self.scheduler, sequence, self.sampler, generated)
                if not num_made:
                    first = time.perf_counter()
                if token in self.stop_tokens:
                    self.finish_reason = "stop"
                    break
                sequence.tokens.append(token)
                num_made += 1
                self._check_length(num_made, len(sequence.tokens))
                yield token
        finally:
            self.scheduler.remove(sequence)
            now = time.perf_counter()
            self.timings = Timings(len(self.prompt), first - started, num_made, now - first)

    def _check_length(self, num_made: int, num_tokens: int) -> None:
        if num_made >= self.max_tokens:
            self.finish_reason = "length"
        elif num_tokens >= self.context_length:
            self.finish_reason = "context"


def next_token(
    engine: Engine, scheduler: Scheduler, sequence: Sequence, sampler: Sampler, generated: list[int]
) -> int:
    """Steps until the sequence's last token is computed, and picks the next one."""
    while True:
        step, runs = scheduler.schedule()
        row = _logit_row(runs, sequence)
        wants = [Wants()] * step.logit_rows.size
        if row is not None:
            wants[row] = sampler.wants(generated)
        result = engine.run(replace(step, wanted=gather(wants)))
        scheduler.finish(runs)
        if row is not None:
            pick = Pick(sampler, row, len(sequence.tokens), generated)
            (picked,) = pick_all([pick], result, engine.fetch)
            if isinstance(picked, LogitsError):
                raise picked
            return picked.token


def _logit_row(runs: list[Run], sequence: Sequence) -> int | None:
    """Index of the sequence's last logits among those of the step, where it has any."""
    row = 0
    for run in runs:
        row += len(run.logit_positions)
        if run.sequence is sequence:
            return row - 1 if run.logit_positions else None
    return None


def all_logits(engine: Engine, scheduler: Scheduler, tokens: list[int]) -> Floats:
    """Logits of every position [tokens, vocabulary]."""
    sequence = Sequence(list(tokens), all_logits=True)
    scheduler.add(sequence)
    parts = []
    while sequence.num_waiting:
        step, runs = scheduler.schedule()
        logits = engine.logits(step)
        scheduler.finish(runs)
        parts.append(logits)
    scheduler.remove(sequence)
    return np.concatenate(parts)
