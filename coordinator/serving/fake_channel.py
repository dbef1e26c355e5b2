"""A channel whose ranks are a FakeModel in this process, for tests of the engine and of what drives it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from tplaunch.coordinator.candidates import answer, whole_rows
from tplaunch.coordinator.messages import (
    PROTOCOL_VERSION,
    Attached,
    Connect,
    Failed,
    FetchRows,
    Hello,
    Load,
    Message,
    Progress,
    Ready,
    Rows,
    Shutdown,
    Step,
    StepDone,
)
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.fake_model import FakeModel, Floats
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.split.stages import most_in_flight

Answer = Callable[[int, Message], "Message | None"]


class FakeChannel(Channel):
    """Answers every message at once; `seconds` is what that took of computing time.

    Ranks in `silent` don't answer: who waits for them passes the deadline without waiting. A rank in
    `failing` answers its next message with that sentence, and so does the rank that gets the next but
    `fails_after` messages. Of the logit rows of a step those in `spoil_rows` become NaN. `step_seconds` says
    how long a rank claims to have worked on so many rows.
    """

    def __init__(self, num_ranks: int, tells_prompts_apart: bool = False) -> None:
        self.num_ranks, self._tells_prompts_apart = num_ranks, tells_prompts_apart
        self.clock = self._now
        self.seconds = 0.0
        self.silent: set[int] = set()
        self.failing: dict[int, str] = {}
        self.fails_after: int | None = None
        self.spoil_rows: set[int] = set()
        self.step_seconds: Callable[[int, int], float] | None = None  # of a rank and a number of rows
        self.num_rows = 0  # that were computed
        self.model: FakeModel | None = None
        self.is_closed = False
        self._passed = 0.0  # of time that nobody waited for
        self._loads: dict[int, Load] = {}
        self._received: deque[tuple[int, Message]] = deque(
            (rank, Hello(PROTOCOL_VERSION, rank)) for rank in range(num_ranks)
        )
        self._logits: dict[int, Floats] = {}  # of the last steps, by number

    def _now(self) -> float:
        return time.monotonic() + self._passed

    def broadcast(self, message: Message) -> None:
        for rank in range(self.num_ranks):
            self.send(rank, message)

    def send(self, rank: int, message: Message) -> None:
        assert not self.is_closed, "a message on a closed channel"
        begin = time.thread_time()
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                self.failing[rank], self.fails_after = "it was told to", None
        if rank in self.failing:
            self._received.append((rank, Failed(self.failing.pop(rank), None)))
        elif rank not in self.silent:
            self._received += ((rank, answer) for answer in self._answers(rank, message))
        self.seconds += time.thread_time() - begin

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        if not self._received:
            self._passed += max(0.0, deadline - self._now())
            return None
        rank, message = self._received.popleft()
        if isinstance(message, Failed):
            raise WorkerError(rank, f"rank {rank} failed: {message.error}")
        return rank, message

    def close(self) -> None:
        self.is_closed = True

    def _answers(self, rank: int, message: Message) -> list[Message]:
        if isinstance(message, Load):
            self._loads[rank] = message
            if rank == 0:
                kinds = LayerKinds.of(message.spec)
                size = message.spec.vocabulary_size
                self.model = FakeModel(message.limits, kinds, size, self._tells_prompts_apart)
            return [Attached(message.origin.model_hash, f"fake device {rank}", "fake", f"fake:{rank}")]
        if isinstance(message, Connect):
            return [Progress(1, 1), Ready(1, "import", tells_prompts_apart=self._tells_prompts_apart)]
        if isinstance(message, Shutdown):
            return []
        if isinstance(message, FetchRows):
            return [Rows(message.number, whole_rows(message.rows, self._slice(rank, message.number)))]
        assert isinstance(message, Step), f"{type(message).__name__} is no message to a rank"
        return [self._run(rank, message)]

    def _run(self, rank: int, step: Step) -> StepDone:
        assert self.model is not None, "a step before the model was loaded"
        if step.number not in self._logits:
            self._logits[step.number] = self.model.run(step)
            self._logits[step.number][list(self.spoil_rows)] = np.nan
            self._logits.pop(step.number - most_in_flight(self._loads[0].placement.num_stages), None)
            self.num_rows += step.token_ids.size
        logits, wanted = self._slice(rank, step.number), step.wanted
        told = answer(wanted, logits, self._loads[rank].share.vocabulary)
        ledger = {"handover": 1.0}  # which is no work
        if self.step_seconds is not None:
            ledger = {"handover": 1e6, "wait": self.step_seconds(rank, step.token_ids.size) * 1e6}
        return StepDone(step.number, whole_rows(wanted.whole_rows, logits), ledger, answer=told)

    def _slice(self, rank: int, number: int) -> Floats:
        """Returns a rank's logits of a step; none where it is not of the last stage."""
        span = self._loads[rank].share.vocabulary
        return self._logits[number][:, span.start : span.stop]
