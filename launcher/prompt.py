"""Reads the lines that a person types at a terminal, and meanwhile waits for child processes, too."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tplaunch.launcher.signals import interrupts, raise_anew

PROMPT = "> "
REPEAT_SECONDS = (0.02, 0.2)


class Interrupted(Exception):
    """Ctrl-C was pressed while a line was typed; the line is gone."""


class _GivenUp(Exception):
    """A line is not awaited any more: a child has ended, or Ctrl-C was pressed."""


def read_line(watch: Callable[[], None], prompt: str = PROMPT) -> str:
    """A line without its end. Raises EOFError, Interrupted, and what `watch` raises once a child has ended.

    The prompt goes to the terminal: never to a file that takes the answers.
    """
    waiting = _Waiting()
    with _signals_repeated(), waiting.children_watched(), interrupts(waiting.interrupt):
        while True:
            watch()
            try:
                return waiting.wait_for(lambda: _ask(prompt))
            except _GivenUp:
                print(file=sys.stderr)  # what is said next begins a line of its own
                if waiting.is_interrupted:
                    raise Interrupted from None


def _ask(prompt: str) -> str:
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):  # some builds of Python have none
            import readline  # noqa: F401  gives input() line editing and history
        return _edited_line(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except OSError:  # the terminal has gone
        line = ""
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _edited_line(prompt: str) -> str:
    """input(), which may lose what a signal's handler has raised.

    Once it has that exception it looks for signals again. The handler of another one then runs while the
    exception is under way: what comes out is either one's, a SystemError, or a KeyboardInterrupt.
    """
    try:
        return input(prompt)
    except (_GivenUp, KeyboardInterrupt):
        raise_anew()
        raise _GivenUp from None
    except SystemError as error:
        raise_anew()
        if isinstance(error.__cause__, _GivenUp):
            raise error.__cause__ from None
        raise


class _Waiting:
    """Lets signals interrupt the wait for a line: their handlers raise, and text typed before is kept."""

    def __init__(self) -> None:
        self._is_waiting = self._has_ended = False
        self.is_interrupted = False

    def wait_for(self, call: Callable[[], str]) -> str:
        """Calls; raises _GivenUp when a child has ended since the last call, or does, and after Ctrl-C."""
        try:
            self._is_waiting = True  # from here on handlers raise; what they noted before is looked at now
            if self._has_ended or self.is_interrupted:
                raise _GivenUp
            return call()
        finally:
            self._is_waiting = self._has_ended = False

    def interrupt(self) -> bool:
        """Ctrl-C is taken."""
        self.is_interrupted = True
        self._give_up()
        return True

    @contextmanager
    def children_watched(self) -> Iterator[None]:
        before = signal.signal(signal.SIGCHLD, self._note_child)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

    def _note_child(self, _number: int, _frame: object) -> None:
        if _a_child_has_ended():
            self._has_ended = True
            self._give_up()

    def _give_up(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            raise _GivenUp


@contextmanager
def _signals_repeated() -> Iterator[None]:
    """Has each signal followed by one that does nothing but interrupt the main thread's wait.

    A wait for keys ends with a signal that comes while it lasts. One that came just before it began would
    stay unseen until the next key, as Python looks at signals between its own instructions only.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    main_thread = threading.get_ident()

    def repeat() -> None:
        with os.fdopen(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                for seconds in REPEAT_SECONDS if number[0] != signal.SIGURG else ():
                    time.sleep(seconds)
                    signal.pthread_kill(main_thread, signal.SIGURG)

    handler = signal.signal(signal.SIGURG, lambda number, frame: None)
    descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        os.close(writer)  # the thread ends
        signal.signal(signal.SIGURG, handler)


def _a_child_has_ended() -> bool:
    """Returns true if a child has ended, and was not only stopped or continued, which has the same signal."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
