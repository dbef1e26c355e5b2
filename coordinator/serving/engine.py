"""Drives the workers: loads them, and runs steps on all of them; on as many at once as there are stages."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.garbage import collect_if_due
from tplaunch.coordinator.gguf.origin import Origin, TensorInfo
from tplaunch.coordinator.measuring.step_times import GroupReduces, StepTimes, Taken, Totals, busy_seconds
from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.coordinator.messages import (
    Attached,
    Connect,
    FetchRows,
    Load,
    Ready,
    Rows,
    Shutdown,
    Step,
    StepDone,
)
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.inbox import Inbox
from tplaunch.coordinator.serving.loading import OnProgress, await_ready
from tplaunch.coordinator.serving.micro_batches import NO_BOUND, MicroBatches
from tplaunch.coordinator.serving.sampling.results import (
    AnswerError,
    StepResult,
    check_answer,
    joined_rows,
    merge,
)
from tplaunch.coordinator.split.exchanges import num_all_reduces, shares_routing
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import HEAD, Placement
from tplaunch.coordinator.split.plan import RankShare, padded
from tplaunch.coordinator.split.stages import most_in_flight, placed

Floats = npt.NDArray[np.float32]
M = TypeVar("M", StepDone, Rows)
# A rank that waits for another gives up first, and knows whom it waited for.
MARGIN_SECONDS = 5.0
START_SECONDS = 20.0  # at least, for a process to start and to open a device, however short steps must be


@dataclass(frozen=True)
class EngineConfig:
    """How the ranks work together."""

    options: RankOptions
    limits: Limits
    load_timeout_seconds: float  # of a rank, without progress of its own


class Engine:
    """Runs a model on workers that have dialled in; each does its part of the steps, in their order."""

    def __init__(
        self,
        channel: Channel,
        origin: Origin,
        tensors: Iterable[TensorInfo],
        spec: ModelSpec,
        plan: Sequence[RankShare],
        config: EngineConfig,
        placement: Placement | None = None,
    ) -> None:
        """placement: of the plan's ranks, all on one host by default."""
        self._activity = "starting"
        self._channel, self._origin, self._tensors = channel, origin, tuple(tensors)
        self._spec, self._plan, self._config = spec, plan, config
        self._placement = placement or placed(plan, (HEAD,) * len(plan))
        self.num_stages = self._placement.num_stages
        self.most_in_flight = most_in_flight(self.num_stages)
        self.micro_batches = MicroBatches(self.num_stages, config.limits.max_decode_rows)
        self._last_stage = [share for share in plan if share.ends(spec)]  # those that have logits
        self._groups: Sequence[GroupReduces] = ()  # known once it is loaded
        self._inbox = Inbox(channel, 2 * self.most_in_flight)
        self._in_flight: deque[tuple[Step, float]] = deque()  # and when each was submitted
        self._collected = 0  # the number of the step that was collected last
        self._last_number = 0  # of the last step
        self.devices: tuple[str, ...] = ()  # the ranks' by name, once it is loaded
        self.tells_prompts_apart = False  # whether any rank does, once it is loaded
        self._times = StepTimes(len(plan), Trace() if config.options.trace else None)

    def load(self, on_progress: OnProgress) -> tuple[list[Attached], list[Ready]]:
        """Brings every worker from its Hello to Ready."""
        start_seconds = max(START_SECONDS, self._config.options.timeout_seconds)
        self._channel.greet(start_seconds)
        self._activity = "loading"
        token = secrets.token_bytes(16)
        for share in self._plan:
            self._channel.send(share.rank, self._load_message(share, token))
        attached = self._channel.collect(Attached, "open its device", start_seconds)
        for rank, message in enumerate(attached):
            if message.model_hash != self._origin.model_hash:
                names = ", ".join(Path(part.path).name for part in self._origin.parts)
                raise WorkerError(rank, f"rank {rank}'s copy of {names} has changed: restore it", lasts=True)
        self.devices = tuple(message.device for message in attached)
        endpoints, kinds = zip(*((message.endpoint, message.kind) for message in attached), strict=True)
        self._groups = [self._group(stage, kinds) for stage in range(self.num_stages)]
        handovers = tuple(message.handovers for message in attached)
        self._channel.broadcast(Connect(endpoints, kinds, handovers))
        ready = await_ready(self._channel, self._config.load_timeout_seconds, on_progress)
        self.tells_prompts_apart = any(message.tells_prompts_apart for message in ready)
        self.micro_batches.least_prompt_rows = max(message.prompt_rows for message in ready)
        bounds = [message.most_row_keys for message in ready if message.most_row_keys > 0]
        self.micro_batches.most_row_keys = min(bounds, default=NO_BOUND)
        self._activity = "before the first step"
        return attached, ready

    def _load_message(self, share: RankShare, token: bytes) -> Load:
        return Load(
            origin=self._origin,
            spec=self._spec,
            tensors=self._tensors,
            share=share,
            placement=self._placement,
            limits=self._config.limits,
            options=self._config.options,
            token=token,
        )

    def _group(self, stage: int, kinds: Sequence[str]) -> GroupReduces:
        """Counts the all-reduces of a stage. kinds: of all ranks' devices."""
        ranks = self._placement.ranks_of_stage(stage)
        first = self._plan[ranks[0]]
        shared = shares_routing(first, [kinds[rank] for rank in ranks])
        layers = first.stage_layers
        counts = (
            num_all_reduces(self._spec, len(ranks), with_logits, shared, layers)
            for with_logits in (False, True)
        )
        return GroupReduces(ranks[0], ranks[-1] + 1, *counts)

    @property
    def activity(self) -> str:
        """Says what the ranks are doing, for people."""
        return self._activity

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def plan(self) -> Sequence[RankShare]:
        """The ranks' shares of the model."""
        return self._plan

    @property
    def limits(self) -> Limits:
        return self._config.limits

    @property
    def next_number(self) -> int:
        """The number that the next step must have."""
        return self._last_number + 1

    def run(self, step: Step) -> StepResult:
        """Runs a step; returns what step.wanted asks of its logits."""
        self.submit(step)
        return self.collect(step.number)

    def submit(self, step: Step) -> None:
        """Has the ranks compute a step; most_in_flight may be submitted before the first is collected."""
        self._in_flight.append((step, time.perf_counter()))
        self._last_number = step.number
        self._activity = f"in step {step.number}"
        self._channel.broadcast(step)
        self._times.end_turn()
        self._times.add_up()  # while the devices compute
        collect_if_due()

    def collect(self, number: int) -> StepResult:
        """Waits for a step that was submitted; returns what step.wanted asks of its logits.

        Nothing can be collected any more of the steps before it.
        """
        while True:
            step, begin = self._in_flight.popleft()
            result = self._collect(step, begin)
            if step.number == number:
                return result

    def _collect(self, step: Step, begin: float) -> StepResult:
        answers = self._answers(StepDone, f"finish step {step.number}", range(len(self._plan)))
        self._times.begin_turn()
        self._collected = step.number
        for share, done in zip(self._plan, answers, strict=True):
            self._check_number(share.rank, done.number, step.number)
        last = [answers[share.rank] for share in self._last_stage]
        for share, done in zip(self._last_stage, last, strict=True):
            try:
                check_answer(step.wanted, done.answer, done.logits, share.vocabulary)
            except AnswerError as error:
                raise WorkerError(
                    share.rank, f"rank {share.rank} answered step {step.number} with {error}"
                ) from error
        self._times.note(step, begin, answers, self._groups, padded(self._spec.embedding_length) * 4)
        if self.num_stages > 1 and step.token_ids.size == step.logit_rows.size:
            self.micro_batches.note(step.token_ids.size, busy_seconds(answers, self._groups))
        ahead = self._in_flight
        self._activity = f"in step {ahead[0][0].number}" if ahead else f"idle behind step {step.number}"
        return merge(
            step.wanted,
            step.logit_rows.size,
            [done.answer for done in last],
            [done.logits for done in last],
            [share.vocabulary for share in self._last_stage],
        )

    def _answers(self, kind: type[M], what: str, ranks: Sequence[int]) -> list[M]:
        """The next answer of each of these ranks, in rank order."""
        if self.num_stages == 1:  # then they are all, and work on one step
            return self._channel.collect(kind, what, self.timeout)
        return self._inbox.collect(kind, what, self.timeout, ranks)

    def fetch(self, rows: Sequence[int]) -> Floats:
        """Whole logit rows of the step that was collected last [rows, vocabulary]; rows: ascending.

        No more than most_in_flight less one may have been submitted since.
        """
        fetched = FetchRows(self._collected, np.array(rows, np.int32))
        ranks, parts = [share.rank for share in self._last_stage], []
        for rank in ranks:
            self._channel.send(rank, fetched)
        answers = self._answers(Rows, f"send rows of step {fetched.number}", ranks)
        for share, answer in zip(self._last_stage, answers, strict=True):
            self._check_number(share.rank, answer.number, fetched.number)
            shape = (fetched.rows.size, len(share.vocabulary))
            if answer.logits.size != shape[0] * shape[1]:
                raise WorkerError(
                    share.rank,
                    f"rank {share.rank} sent {answer.logits.size} logits of step {fetched.number};"
                    f" expected {shape[0]} x {shape[1]}",
                )
            parts.append(answer.logits.reshape(shape))
        return joined_rows(parts)

    @property
    def timeout(self) -> float:
        """Seconds after which a step fails: each stage has its time for it."""
        return self._config.options.timeout_seconds * self.num_stages + MARGIN_SECONDS

    @staticmethod
    def _check_number(rank: int, found: int, expected: int) -> None:
        if found != expected:
            raise WorkerError(rank, f"rank {rank} answered step {found}; expected step {expected}")

    @property
    def trace(self) -> Trace | None:
        """All steps one by one, where the options ask for that."""
        return self._times.trace

    def spent(self) -> Totals:
        """Each rank's microseconds by kind, of steps before the last one. Any thread may call this."""
        return self._times.spent()

    def take_ledger(self) -> Taken:
        """Returns the times of all steps since the last call."""
        return self._times.take()

    def take_over(self, other: Engine) -> None:
        """Goes on with the ledger and the trace of another one, whose ranks are gone."""
        self._times = other._times

    def shut_down(self) -> None:
        self._activity = "ending"
        self._channel.broadcast(Shutdown())
