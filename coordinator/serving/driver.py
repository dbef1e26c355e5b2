"""A loaded model in a thread of its own, to which other threads give requests at any time.

The thread alone touches the session: it takes what was submitted, runs a step, and hands out what the step
has brought. While nothing is to be computed it waits, and looks after the ranks.
"""

from __future__ import annotations

import abc
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.failures import ClosedError, RunError
from tplaunch.coordinator.serving.request import Event, Reading, Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.stats import Health, Stats, read_stats
from tplaunch.coordinator.split.limits import Limits

IDLE_SECONDS = 0.5  # between two looks at the ranks while nothing is to be computed


class Running(Protocol):
    """A model whose workers run, as its driver and those who give it requests see it."""

    @property
    def engine(self) -> Engine:
        """The engine carries out steps."""

    @property
    def requests(self) -> Requests:
        """The requests that are computed; the driver's thread alone touches them."""

    @property
    def limits(self) -> Limits:
        """The limits say how much the workers have room for."""

    @property
    def watch(self) -> Callable[[], None]:
        """Raises WorkerError where a rank has ended."""

    @property
    def explain(self) -> Callable[[Exception], str]:
        """Returns an error of one request as a sentence, with what is known of it."""


class Listener(abc.ABC):
    """Hears what becomes of jobs. It is called in the driver's thread, and must return at once."""

    def begin(self, job: Job) -> None:  # noqa: B027 - not all need to know
        """Hears that a job can be computed, and waits for its turn from now on."""

    @abc.abstractmethod
    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        """Takes all that one step has brought for jobs of this listener."""

    @abc.abstractmethod
    def fail(self, job: Job, error: Exception) -> None:
        """Takes the reason why nothing more comes of a job: RequestError, RunError or ClosedError."""


@dataclass(eq=False)
class Job:
    """A prompt of token ids, what to make of it, and who hears of it."""

    prompt: Sequence[int]
    params: SamplingParams
    listener: Listener
    id: str | None = None  # of the request; None for one that is made up
    reading: Reading | None = None  # the prompt is only read, and nothing is generated
    constraint: Constraint | None = None  # rules out tokens of each text
    request: Request | None = None  # is set before the first event


@dataclass(frozen=True)
class _Submit:
    jobs: Sequence[Job]
    together: bool


@dataclass(frozen=True)
class _Cancel:
    jobs: Sequence[Job]


# Starts a session; what it is given raises an exception once the session shall end, whatever it waits for.
OpenSession: TypeAlias = Callable[[Callable[[], None]], AbstractContextManager[Running]]


class Driver:
    """Opens a session in a new thread and computes jobs there until `close`. Any thread may call it."""

    def __init__(self, open_session: OpenSession) -> None:
        """Returns once the session is open. Raises what opening it raises."""
        self._open_session = open_session
        self._commands: queue.SimpleQueue[_Submit | _Cancel | None] = queue.SimpleQueue()
        self._jobs: dict[Request, Job] = {}  # that have begun and have not ended
        # For _ended. The collector may find a model that nobody has any more, and close it, at any line.
        self._lock = threading.RLock()
        self._ended: Exception | None = None
        self._failure: str | None = None  # what ends the session, which takes its time to end
        self._step_began: float | None = None  # as time.monotonic has it; None between steps
        self._step_ended: float | None = None  # the last one
        opened: Future[Running] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="tplaunch driver", daemon=True)
        self._thread.start()
        try:
            self.session = opened.result()
        except BaseException:  # also Ctrl-C while it loads
            self.close()
            raise

    def submit(self, jobs: Sequence[Job], *, together: bool = False) -> None:
        """Has jobs computed, the first before the others. Raises ClosedError.

        A job that can't be computed fails with a RequestError; where they are submitted together, nothing is
        computed then, and no other one hears of it.
        """
        self._put(_Submit(jobs, together))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Ends jobs after the step that runs; nothing more is heard of them. Those that have ended stay."""
        with contextlib.suppress(ClosedError):  # they have ended with all others
            self._put(_Cancel(tuple(jobs)))

    def stats(self) -> Stats:
        """Returns what is computed now, and what has been. Any thread may call this; no step waits for it."""
        now, began, ended = time.monotonic(), self._step_began, self._step_ended
        return read_stats(
            self.session.requests,
            None if began is None else max(0.0, now - began),
            None if ended is None else max(0.0, now - ended),
        )

    def health(self) -> Health:
        """Tells whether requests are computed. Any thread may call this.

        A step that has used up half of the time after which it fails is called a stall.
        """
        if self._failure is not None or self._ended is not None or not self._thread.is_alive():
            return Health(
                "ended", str(self._ended or self._failure or "the model belongs to another process")
            )
        began, bound = self._step_began, self.session.engine.timeout / 2
        seconds = 0.0 if began is None else time.monotonic() - began
        if seconds > bound:
            return Health(
                "stalled",
                f"a step has been running for {seconds:.0f} s, and more than {bound:.0f} s is too long",
            )
        return Health()

    def close(self) -> None:
        """Ends what is computed, gives back devices and processes, and waits for that.

        All jobs fail with a ClosedError. Closing again does nothing.
        """
        with self._lock:
            self._ended = self._ended or ClosedError("the model was closed; load it again to go on")
        self._commands.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _put(self, command: _Submit | _Cancel) -> None:
        with self._lock:
            if self._ended is not None:
                raise ClosedError(str(self._ended)) from self._ended
            if not self._thread.is_alive():  # a fork has no threads of the process that it comes from
                raise ClosedError("the model belongs to another process; load it in this one")
            self._commands.put(command)

    # From here on in the driver's thread.

    def _check_open(self) -> None:
        if isinstance(self._ended, ClosedError):
            raise self._ended

    def _run(self, opened: Future[Running]) -> None:
        error: BaseException = ClosedError("the model was closed while this was computed")
        try:
            with self._open_session(self._check_open) as session:
                opened.set_result(session)
                self._serve(session)
        except ClosedError:
            pass
        except BaseException as raised:
            error = raised
        if not opened.done():
            opened.set_exception(error)
        self._fail_all(error)

    def _serve(self, session: Running) -> None:
        try:
            while self._do_commands(session):
                self._step(session)
        except BaseException as error:
            self._failure = str(error) or repr(error)
            raise

    def _step(self, session: Running) -> None:
        self._step_began = time.monotonic()
        events = session.requests.step()
        self._hand_out(session, events)
        self._step_ended, self._step_began = time.monotonic(), None

    def _hand_out(self, session: Running, events: Sequence[Event]) -> None:
        by_listener: dict[Listener, list[tuple[Job, Event]]] = {}
        for event in events:
            job = self._jobs[event.request]
            by_listener.setdefault(job.listener, []).append((job, event))
        for event in events:
            if event.finish_reason is not None and event.request.is_finished:
                self._jobs.pop(event.request, None)
        for listener, brought in by_listener.items():
            try:
                listener.take(brought)
            except Exception as error:  # it has gone, as an event loop that was closed
                self._cancel(session, [job for job, _ in brought])
                for job in {job for job, _ in brought}:
                    _fail(job, error)

    def _do_commands(self, session: Running) -> bool:
        """Does all that was asked for; waits for something while nothing is to be computed. False to end."""
        while True:
            is_idle = not len(session.requests)
            try:
                command = self._commands.get(block=is_idle, timeout=IDLE_SECONDS if is_idle else None)
            except queue.Empty:
                if not is_idle:
                    return True
                session.watch()
                continue
            if command is None:
                return False
            if isinstance(command, _Submit):
                self._start(session, command)
            else:
                self._cancel(session, command.jobs)
            del command  # it would hold its jobs, and what came of them, until the next one comes

    def _start(self, session: Running, command: _Submit) -> None:
        for index, job in enumerate(command.jobs):
            try:
                job.request = session.requests.add(
                    job.prompt, job.params, id=job.id, constraint=job.constraint, reading=job.reading
                )
            except RequestError as error:
                if command.together:
                    self._cancel(session, command.jobs[:index])
                _fail(job, error)
                if command.together:
                    return
            else:
                self._jobs[job.request] = job
                with contextlib.suppress(Exception):  # of a listener that has gone; its events will tell
                    job.listener.begin(job)

    def _cancel(self, session: Running, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.request is not None and self._jobs.pop(job.request, None) is not None:
                session.requests.cancel(job.request.id)

    def _fail_all(self, error: BaseException) -> None:
        """Tells all who wait, and all who will come."""
        with self._lock:
            if self._ended is None:
                self._ended = ClosedError(f"the model can't go on, load it again: {error}")
        waiting: list[Job] = []
        while not self._commands.empty():  # and no other thread puts jobs there any more
            command = self._commands.get()
            waiting += command.jobs if isinstance(command, _Submit) else ()
        for job in (*self._jobs.values(), *waiting):
            _fail(job, _told(error))
        self._jobs.clear()


def _fail(job: Job, error: Exception) -> None:
    with contextlib.suppress(Exception):  # of a listener that has gone
        job.listener.fail(job, error)


def _told(error: BaseException) -> Exception:
    """An exception for one of those who wait: each raises its own, with a traceback of its own."""
    if isinstance(error, ClosedError):
        return ClosedError(str(error))
    told = RunError(str(error) if isinstance(error, RunError) else repr(error))
    told.__cause__ = error
    return told
