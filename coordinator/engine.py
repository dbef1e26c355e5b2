"""Drives the workers: loads them, runs steps, and turns logits into tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.control import WorkerChannel, WorkerError
from coordinator.gguf_file import GgufFile
from coordinator.messages import Attached, Connect, Load, Progress, Ready, Shutdown, Step, StepDone
from coordinator.model import ModelSpec
from coordinator.plan import Limits, RankShare
from coordinator.sampler import Sampler
from coordinator.scheduler import Run, Scheduler, Sequence

Floats = npt.NDArray[np.float32]
OnProgress = Callable[[int, Progress], None]  # rank, how far it is


@dataclass(frozen=True)
class EngineConfig:
    """How the ranks work together."""

    collective: str
    limits: Limits
    timeout_seconds: float  # of one step, and of every wait inside it
    load_timeout_seconds: float = 3600.0  # without any progress


class Engine:
    """Runs a model on workers that have dialled in. One step at a time."""

    def __init__(
        self,
        channel: WorkerChannel,
        model: GgufFile,
        spec: ModelSpec,
        plan: SequenceOf[RankShare],
        config: EngineConfig,
    ) -> None:
        self._channel, self._model, self._spec, self._plan, self._config = channel, model, spec, plan, config

    def load(self, on_progress: OnProgress) -> tuple[list[Attached], list[Ready]]:
        """Brings every worker from its Hello to Ready."""
        self._channel.greet(self._config.timeout_seconds)
        token = secrets.token_bytes(16)
        for share in self._plan:
            self._channel.send(share.rank, self._load_message(share, token))
        attached = self._channel.collect(Attached, "open its device", self._config.timeout_seconds)
        for rank, message in enumerate(attached):
            if message.model_hash != self._model.model_hash:
                raise WorkerError(
                    rank, f"rank {rank} has another file at {self._model.path}: the hashes differ"
                )
        self._channel.broadcast(Connect(tuple(message.endpoint for message in attached)))
        return attached, self._await_ready(on_progress)

    def _load_message(self, share: RankShare, token: bytes) -> Load:
        return Load(
            model_path=str(self._model.path.absolute()),
            model_hash=self._model.model_hash,
            header_bytes=self._model.header_bytes,
            spec=self._spec,
            tensors=tuple(self._model.tensors.values()),
            share=share,
            num_ranks=len(self._plan),
            limits=self._config.limits,
            collective=self._config.collective,
            token=token,
            timeout_seconds=self._config.timeout_seconds,
        )

    def _await_ready(self, on_progress: OnProgress) -> list[Ready]:
        ready: dict[int, Ready] = {}
        while len(ready) < len(self._plan):
            received = self._channel.receive(time.monotonic() + self._config.load_timeout_seconds)
            if received is None:
                missing = min(set(range(len(self._plan))) - set(ready))
                raise WorkerError(missing, f"rank {missing} stopped loading")
            rank, message = received
            if isinstance(message, Progress):
                on_progress(rank, message)
            elif isinstance(message, Ready):
                ready[rank] = message
            else:
                raise WorkerError(rank, f"rank {rank} sent {type(message).__name__} while loading")
        return [ready[rank] for rank in range(len(self._plan))]

    def run(self, step: Step) -> tuple[Floats, list[dict[str, float]]]:
        """Runs a step; returns logits [logit rows, vocabulary] and every rank's ledger."""
        self._channel.broadcast(step)
        answers = self._channel.collect(StepDone, f"finish step {step.number}", self._config.timeout_seconds)
        slices = []
        for share, answer in zip(self._plan, answers, strict=True):
            shape = (step.logit_rows.size, len(share.vocabulary))
            if answer.number != step.number or answer.logits.size != shape[0] * shape[1]:
                raise WorkerError(
                    share.rank,
                    f"rank {share.rank} answered step {answer.number} with {answer.logits.size} logits;"
                    f" expected step {step.number} with {shape[0]} x {shape[1]}",
                )
            slices.append(answer.logits.reshape(shape))
        return np.concatenate(slices, axis=1), [answer.ledger for answer in answers]

    def shut_down(self) -> None:
        self._channel.broadcast(Shutdown())


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
                token = self.sampler.sample(next_logits(self.engine, self.scheduler, sequence))
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


def next_logits(engine: Engine, scheduler: Scheduler, sequence: Sequence) -> Floats:
    """Steps until the sequence's last token is computed; its logits [vocabulary]."""
    while True:
        step, runs = scheduler.schedule()
        logits, _ = engine.run(step)
        scheduler.finish(runs)
        if not sequence.num_waiting:
            last: Floats = logits[_logit_row(runs, sequence)]
            return last


def _logit_row(runs: list[Run], sequence: Sequence) -> int:
    """Index of the sequence's last logits among those of the step."""
    row = 0
    for run in runs:
        row += len(run.logit_positions)
        if run.sequence is sequence:
            break
    return row - 1


def all_logits(engine: Engine, scheduler: Scheduler, tokens: list[int]) -> Floats:
    """Logits of every position [tokens, vocabulary]."""
    sequence = Sequence(list(tokens), all_logits=True)
    scheduler.add(sequence)
    parts = []
    while sequence.num_waiting:
        step, runs = scheduler.schedule()
        logits, _ = engine.run(step)
        scheduler.finish(runs)
        parts.append(logits)
    scheduler.remove(sequence)
    return np.concatenate(parts)
