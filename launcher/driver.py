"""A loaded model in a thread of its own, to which other threads give requests at any time.

The thread alone touches the session: it takes what was submitted, runs a step, and hands out what the step
has brought. While nothing is to be computed it waits, and looks after the ranks.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from tplaunch.coordinator.serving.request import Event, Request, RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer
from tplaunch.launcher.config import RunConfig, RunError
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.fitting.arrange import arrange, say_arrangement
from tplaunch.launcher.model import Model
from tplaunch.launcher.session import Session, start_session

IDLE_SECONDS = 0.5  # between two looks at the ranks while nothing is to be computed

# Is called in the driver's thread with every event of a request, or with what ended it from outside.
Sink: TypeAlias = Callable[["Event | Exception"], None]


class ClosedError(RuntimeError):
    """The model was given back, or its run has failed; nothing more can be computed."""


@dataclass(frozen=True)
class Submission:
    """A prompt of token ids, what to make of it, and who hears of it."""

    prompt: Sequence[int]
    params: SamplingParams
    sink: Sink
    only_logits: bool = False
    on_start: Callable[[Request], None] = lambda request: None  # called in the driver's thread


class Driver:
    """Loads a model in a new thread and computes requests there until `close`."""

    def __init__(self, config: RunConfig, model: Model, tokenizer: Tokenizer | None) -> None:
        """Returns once the model is loaded. Raises what loading raises."""
        self._config, self._model, self._tokenizer = config, model, tokenizer
        self._commands: queue.SimpleQueue[Callable[[Session], None] | None] = queue.SimpleQueue()
        self._sinks: dict[Request, Sink] = {}
        self._lock = threading.Lock()  # of _ended and what is put into _commands
        self._ended: Exception | None = None
        loaded: Future[Session] = Future()
        self._thread = threading.Thread(target=self._run, args=(loaded,), name="tplaunch driver", daemon=True)
        self._thread.start()
        try:
            self.session = loaded.result()
        except BaseException:  # also Ctrl-C while it loads
            self.close()
            raise

    def submit(self, submissions: Sequence[Submission]) -> None:
        """Has requests computed, the first before the others. Raises ClosedError.

        What is wrong with one of them is told to its own sink.
        """
        self._put(lambda session: self._start_all(session, submissions))

    def cancel(self, requests: Sequence[Request]) -> None:
        """Ends requests at once; their sinks hear nothing more. Those that have ended are left alone."""

        def cancel(session: Session) -> None:
            for request in requests:
                self._sinks.pop(request, None)
                session.requests.cancel(request.id)

        with contextlib.suppress(ClosedError):  # they have ended with all the others
            self._put(cancel)

    def close(self) -> None:
        """Ends what is computed, gives back devices and processes, and waits for it. Idempotent."""
        with self._lock:
            if self._ended is None:
                self._ended = ClosedError("this LLM is closed; make a new one to go on")
            self._commands.put(None)
        self._thread.join()

    def _put(self, command: Callable[[Session], None]) -> None:
        with self._lock:
            if self._ended is not None:
                raise ClosedError(str(self._ended)) from self._ended
            self._commands.put(command)

    # From here on in the driver's thread.

    def _run(self, loaded: Future[Session]) -> None:
        try:
            arrangement = arrange(self._config, self._model, select_devices(self._config.devices))
            say_arrangement(self._config, self._model, arrangement)
            with start_session(self._config, self._model, arrangement, self._tokenizer) as session:
                loaded.set_result(session)
                self._serve(session)
        except Exception as error:
            if loaded.done():
                self._fail(error)
            else:
                loaded.set_exception(error)
        else:
            self._fail(ClosedError("the LLM was closed while this was computed"))

    def _serve(self, session: Session) -> None:
        while self._take_commands(session):
            for event in session.requests.step():
                sink = self._sinks.get(event.request)
                if sink is not None:
                    sink(event)
                if event.request.is_finished:
                    self._sinks.pop(event.request, None)

    def _take_commands(self, session: Session) -> bool:
        """Does all that was asked for; waits for something where nothing is to be computed. False to end."""
        while True:
            try:
                is_idle = not len(session.requests)
                command = self._commands.get(block=is_idle, timeout=IDLE_SECONDS if is_idle else None)
            except queue.Empty:
                if not is_idle:
                    return True
                session.watch()
                continue
            if command is None:
                return False
            command(session)

    def _start_all(self, session: Session, submissions: Sequence[Submission]) -> None:
        for submission in submissions:
            self._start(session, submission)

    def _start(self, session: Session, submission: Submission) -> None:
        try:
            request = session.requests.add(
                submission.prompt, submission.params, only_logits=submission.only_logits
            )
        except RequestError as error:
            submission.sink(error)
            return
        self._sinks[request] = submission.sink
        submission.on_start(request)

    def _fail(self, error: Exception) -> None:
        """Tells all who wait, and all who will come."""
        with self._lock:
            if not isinstance(self._ended, ClosedError):
                self._ended = error
        for sink in self._sinks.values():
            sink(error if isinstance(error, RunError) else ClosedError(str(error)))
        self._sinks.clear()
