"""Drives the workers: loads them, and runs steps on all of them at once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.garbage import collect_if_due
from tplaunch.coordinator.gguf.origin import Origin, TensorInfo
from tplaunch.coordinator.measuring.reduce_times import ReduceClock, ReduceTimes
from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.coordinator.messages import (
    Attached,
    Connect,
    FetchRows,
    Load,
    Progress,
    Ready,
    Rows,
    Shutdown,
    Step,
    StepDone,
)
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.sampling.results import (
    AnswerError,
    StepResult,
    check_answer,
    joined_rows,
    merge,
)
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import RankShare, num_all_reduces, padded, shares_routing

Floats = npt.NDArray[np.float32]
# A rank that waits for another gives up first, and knows whom it waited for.
MARGIN_SECONDS = 5.0
OnProgress = Callable[[int, Progress], None]  # rank, how far it is


@dataclass(frozen=True)
class EngineConfig:
    """How the ranks work together."""

    options: RankOptions
    limits: Limits
    load_timeout_seconds: float  # of a rank, without progress of its own


class Engine:
    """Runs a model on workers that have dialled in. One step at a time."""

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
        """placement: of the ranks; None where all are on one host, in one stage."""
        self._placement = placement or Placement.single(len(plan))
        self._stage = "starting"
        self._channel, self._origin, self._tensors = channel, origin, tuple(tensors)
        self._spec, self._plan, self._config = spec, plan, config
        self.ledger: list[dict[str, float]] = [{} for _ in plan]  # microseconds by kind
        self._spent: list[dict[str, float]] = []  # of the last step, not yet in the ledger
        self._num_steps = 0  # that the ledger covers
        self._last_number = 0  # of the last step
        self._reduce_clock = ReduceClock()
        self.devices: tuple[str, ...] = ()  # the ranks' by name, once it is loaded
        self._num_all_reduces: dict[bool, int] = {}  # of a step, by whether it has logits
        self.trace = Trace() if config.options.trace else None

    def load(self, on_progress: OnProgress) -> tuple[list[Attached], list[Ready]]:
        """Brings every worker from its Hello to Ready."""
        self._channel.greet(self._config.options.timeout_seconds)
        self._stage = "loading"
        token = secrets.token_bytes(16)
        for share in self._plan:
            self._channel.send(share.rank, self._load_message(share, token))
        attached = self._channel.collect(Attached, "open its device", self._config.options.timeout_seconds)
        for rank, message in enumerate(attached):
            if message.model_hash != self._origin.model_hash:
                paths = ", ".join(part.path for part in self._origin.parts)
                raise WorkerError(rank, f"rank {rank} has other files at {paths}: the hashes differ")
        self.devices = tuple(message.device for message in attached)
        endpoints, kinds = zip(*((message.endpoint, message.kind) for message in attached), strict=True)
        self._num_all_reduces = {
            with_logits: num_all_reduces(self._spec, len(self._plan), with_logits, shares_routing(kinds))
            for with_logits in (False, True)
        }
        self._channel.broadcast(Connect(endpoints, kinds))
        ready = self._await_ready(on_progress)
        self._stage = "before the first step"
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

    def _await_ready(self, on_progress: OnProgress) -> list[Ready]:
        """A rank has load_timeout_seconds from each sign of its own to the next."""
        clock, timeout = self._channel.clock, self._config.load_timeout_seconds
        ends = dict.fromkeys(range(len(self._plan)), clock() + timeout)
        ready: dict[int, Ready] = {}
        while ends:
            last = min(ends, key=ends.__getitem__)
            received = self._channel.receive(ends[last])
            if received is None:
                raise WorkerError(
                    last,
                    f"rank {last} got no further in loading for {timeout:g} s; --load-timeout allows more",
                )
            rank, message = received
            if isinstance(message, Progress):
                on_progress(rank, message)
                ends[rank] = clock() + timeout
            elif isinstance(message, Ready) and rank in ends:
                ready[rank] = message
                del ends[rank]
            else:
                raise WorkerError(rank, f"rank {rank} sent {type(message).__name__} while loading")
        return [ready[rank] for rank in range(len(self._plan))]

    @property
    def stage(self) -> str:
        """Says what the ranks are doing, for people."""
        return self._stage

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
        begin = time.perf_counter()
        self._last_number = step.number
        self._stage = f"in step {step.number}"
        self._channel.broadcast(step)
        self._add_up()  # while the devices compute
        collect_if_due()
        answers = self._channel.collect(StepDone, f"finish step {step.number}", self.timeout)
        if self.trace is not None:
            self.trace.add(step, begin, time.perf_counter(), answers)
        self._reduce_clock.add(
            answers, self._num_all_reduces[step.logit_rows.size > 0], self._reduce_bytes(step)
        )
        for share, done in zip(self._plan, answers, strict=True):
            self._check_number(share.rank, done.number, step.number)
            try:
                check_answer(step.wanted, done.answer, done.logits, share.vocabulary)
            except AnswerError as error:
                raise WorkerError(
                    share.rank, f"rank {share.rank} answered step {step.number} with {error}"
                ) from error
        self._spent = [done.ledger for done in answers]
        self._stage = f"idle behind step {step.number}"
        return merge(
            step.wanted,
            step.logit_rows.size,
            [done.answer for done in answers],
            [done.logits for done in answers],
            [share.vocabulary for share in self._plan],
        )

    def fetch(self, rows: Sequence[int]) -> Floats:
        """Whole logit rows of the last step [rows, vocabulary], before the next one; rows: ascending."""
        fetched = FetchRows(self._last_number, np.array(rows, np.int32))
        self._channel.broadcast(fetched)
        parts = []
        answers = self._channel.collect(Rows, f"send rows of step {fetched.number}", self.timeout)
        for share, answer in zip(self._plan, answers, strict=True):
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
        """Seconds after which a step fails."""
        return self._config.options.timeout_seconds + MARGIN_SECONDS

    @staticmethod
    def _check_number(rank: int, found: int, expected: int) -> None:
        if found != expected:
            raise WorkerError(rank, f"rank {rank} answered step {found}; expected step {expected}")

    def _add_up(self) -> None:
        """Takes the last step into the ledger."""
        self._num_steps += bool(self._spent)
        for totals, spent in zip(self.ledger, self._spent, strict=False):
            for kind, microseconds in spent.items():
                totals[kind] = totals.get(kind, 0.0) + microseconds
        self._spent = []

    def _reduce_bytes(self, step: Step) -> int:
        return step.token_ids.size * padded(self._spec.embedding_length) * 4

    def spent(self) -> list[dict[str, float]]:
        """Each rank's microseconds by kind, of steps before the last one. Any thread may call this."""
        return [totals.copy() for totals in self.ledger]

    def take_ledger(self) -> tuple[list[dict[str, float]], int, ReduceTimes | None]:
        """Each rank's microseconds by kind, the number of steps, and all-reduces since the last call."""
        self._add_up()
        taken = self.ledger, self._num_steps, self._reduce_clock.take()
        self.ledger, self._num_steps = [{} for _ in self._plan], 0
        return taken

    def take_over(self, other: Engine) -> None:
        """Goes on with the ledger and the trace of another one, whose ranks are gone."""
        other._add_up()
        self.ledger, self._num_steps, self.trace = other.ledger, other._num_steps, other.trace

    def shut_down(self) -> None:
        self._stage = "ending"
        self._channel.broadcast(Shutdown())
