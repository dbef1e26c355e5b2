"""A loaded model in a thread of its own, to which other threads give requests at any time.

The thread alone touches the session: it takes what was submitted, runs a step, and hands out what the step
has brought. While nothing is to be computed it waits, and looks after the ranks. Where these fail it may open
another session, which goes on with all requests from the tokens that they have.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.failures import ClosedError, LastingError, RunError
from tplaunch.coordinator.serving.jobs import Cancel, Job, Listener, Submit, fail, told
from tplaunch.coordinator.serving.request import Event, Request, RequestError
from tplaunch.coordinator.serving.restarts import RestartPolicy, Restarts
from tplaunch.coordinator.serving.running import OpenSession, Running
from tplaunch.coordinator.serving.stats import Health, Stats, read_stats

__all__ = ["Driver", "Job", "Listener"]

IDLE_SECONDS = 0.5  # between two looks at the ranks while nothing is to be computed


class Driver:
    """Opens a session in a new thread and computes jobs there until `close`. Any thread may call it."""

    session: Running  # the one that is open, or the last one

    def __init__(
        self,
        open_session: OpenSession,
        restarts: RestartPolicy | None = None,
        at_end: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """Returns once the session is open. Raises what opening it raises.

        restarts: where ranks fail later another session is opened, which goes on with the requests. at_end:
        is called in the driver's thread once there are no more sessions, with a ClosedError or what has
        ended them, before anybody is told of it.
        """
        self._open_session, self._restarts, self._at_end = open_session, Restarts(restarts), at_end
        self._commands: queue.SimpleQueue[Submit | Cancel | None] = queue.SimpleQueue()
        self._jobs: dict[Request, Job] = {}  # that have begun and have not ended
        # For _ended. The collector may find a model that nobody has any more, and close it, at any line.
        self._lock = threading.RLock()
        self._ended: Exception | None = None
        self._failure: str | None = None  # what has ended the session, until the next one is open
        self._step_began: float | None = None  # as time.monotonic has it; None between steps
        self._step_ended: float | None = None  # the last one
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="tplaunch driver", daemon=True)
        try:
            self._thread.start()
            opened.result()
        except BaseException:  # also Ctrl-C while it loads
            self.close()
            raise

    def submit(self, jobs: Sequence[Job], *, together: bool = False) -> None:
        """Has jobs computed, the first before the others. Raises ClosedError.

        A job that can't be computed fails with a RequestError; where they are submitted together, nothing is
        computed then, and no other one hears of it.
        """
        self._put(Submit(jobs, together))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Ends jobs after the step that runs; nothing more is heard of them. Those that have ended stay."""
        with contextlib.suppress(ClosedError):  # they have ended with all others
            self._put(Cancel(tuple(jobs)))

    def stats(self) -> Stats:
        """Returns what is computed now, and what has been. Any thread may call this; no step waits for it."""
        now, began, ended = time.monotonic(), self._step_began, self._step_ended
        return read_stats(
            self.session.requests,
            None if began is None else max(0.0, now - began),
            None if ended is None else max(0.0, now - ended),
            self._restarts.num,
        )

    def health(self) -> Health:
        """Tells whether requests are computed. Any thread may call this.

        A step that has used up half of the time after which it fails is called a stall.
        """
        failure = self._failure
        if self._ended is not None or not self._thread.is_alive():
            return Health("ended", str(self._ended or "the model belongs to another process"))
        if failure is not None:
            return Health("ended" if self._restarts.policy is None else "restarting", failure)
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
            with contextlib.suppress(RuntimeError):  # Ctrl-C came before it ran: it will open no session
                self._thread.join()

    def _put(self, command: Submit | Cancel) -> None:
        with self._lock:
            if self._ended is not None:
                raise ClosedError(str(self._ended)) from self._ended
            if not self._thread.is_alive():  # a fork has no threads of the process that it comes from
                raise ClosedError("the model belongs to another process; load it in this one")
            self._commands.put(command)

    # From here on in the driver's thread.

    def _check_open(self) -> None:
        """Raises ClosedError once the model is closed. Until ranks are back, does what is asked for."""
        if isinstance(self._ended, ClosedError):
            raise self._ended
        if self._failure is not None and self._restarts.policy is not None:
            self._do_meanwhile(0.0)

    def _run(self, opened: Future[None]) -> None:
        error: BaseException = ClosedError("the model was closed while this was computed")
        try:
            while self._ended is None and self._serve_session(opened):
                pass
        except ClosedError:
            pass
        except BaseException as raised:
            error = raised
        try:
            self._at_end(error)
        finally:
            if not opened.done():
                opened.set_exception(error)
            self._fail_all(error)

    def _serve_session(self, opened: Future[None]) -> bool:
        """Computes jobs in a session until it ends. True where another one shall go on."""
        try:
            with self._open_session(self._check_open) as session:
                if opened.done():
                    session.requests.take_over(self.session.requests)
                self.session, self._failure = session, None
                if not opened.done():
                    opened.set_result(None)
                self._serve(session)
            return False
        except LastingError:
            raise
        except RunError as error:
            if not opened.done() or (self._failure is None and not isinstance(error.__cause__, WorkerError)):
                raise
            self._prepare_restart(error)
            return True

    def _serve(self, session: Running) -> None:
        try:
            while self._do_commands(session):
                self._step(session)
        except BaseException as error:
            if not isinstance(error, ClosedError):
                self._failure = str(error) or repr(error)
            self._step_began = None
            raise

    def _prepare_restart(self, error: RunError) -> None:
        """Waits for the time of the next restart. Raises RunError where there shall be none."""
        policy, delay = self._restarts.policy, self._restarts.delay()
        if policy is None:
            raise error
        if delay is None:
            raise RunError(f"{error}; the ranks are not started again: {policy.limit}") from error
        self._failure = str(error)
        requests = self.session.requests
        for request in self._restarts.suspects(requests.take_in_step()):
            requests.cancel(request.id)
            if (job := self._jobs.pop(request, None)) is not None:
                sentence = f"the ranks failed twice at this request, which is not tried again: {error}"
                fail(job, RunError(sentence))
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            self._do_meanwhile(left)

    def _do_meanwhile(self, seconds: float) -> None:
        """Does what is asked for while there are no ranks; waits so long for the first of it."""
        while True:
            try:
                command = self._commands.get(block=seconds > 0, timeout=seconds or None)
            except queue.Empty:
                return
            seconds = 0.0
            if command is None and self._ended is not None:
                raise self._ended
            self._do(self.session, command)

    def _step(self, session: Running) -> None:
        self._step_began = time.monotonic()
        events = session.requests.step()
        try:
            if self._commands.empty():  # else they come first: the next step is theirs, too
                session.requests.send()
        finally:
            self._hand_out(
                session, events
            )  # the ranks compute meanwhile; and events of a step count, in any case
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
                    fail(job, error)

    def _do_commands(self, session: Running) -> bool:
        """Does all that was asked for; waits for something while nothing is to be computed. False to end."""
        while True:
            is_idle = not len(session.requests)
            if is_idle:
                session.requests.land()
            try:
                command = self._commands.get(block=is_idle, timeout=IDLE_SECONDS if is_idle else None)
            except queue.Empty:
                if not is_idle:
                    return True
                session.watch()
                continue
            if command is None:
                return False
            self._do(session, command)
            del command  # it would hold its jobs, and what came of them, until the next one comes

    def _do(self, session: Running, command: Submit | Cancel | None) -> None:
        if isinstance(command, Submit):
            self._start(session, command)
        elif command is not None:
            self._cancel(session, command.jobs)

    def _start(self, session: Running, command: Submit) -> None:
        for index, job in enumerate(command.jobs):
            try:
                job.request = session.requests.add(
                    job.prompt, job.params, id=job.id, constraint=job.constraint, reading=job.reading
                )
            except RequestError as error:
                if command.together:
                    self._cancel(session, command.jobs[:index])
                fail(job, error)
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
            waiting += command.jobs if isinstance(command, Submit) else ()
        for job in (*self._jobs.values(), *waiting):
            fail(job, told(error))
        self._jobs.clear()
