"""Signals that end a process end a run in order: as an exception, once, and with the exit code 128 + number.

Ignored ones stay ignored: nohup(1) and shells ignore some for what they start in the background. Nothing
heavy is imported here, as this comes before all that is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tplaunch.launcher.endings import signal_name

# Those that can't be caught, that don't end a process, and that tell of a fault in the code that is running:
# a handler would return to it.
NOT_HANDLED = {
    *(signal.SIGKILL, signal.SIGSTOP),
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
}
RETRY_SECONDS = 0.02


class Signalled(BaseException):
    """A signal came: end, with everything cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal_name(number))
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class _State:
    """The state of this process's signals."""

    first: int | None = None  # the signal that ends the run; others change nothing
    due: int | None = None  # that signal, until it is raised anew where Python lost it
    num_holds = 0
    handled: tuple[int, ...] = ()


def exit_at_once() -> None:
    """While there is nothing to clean up."""
    _State.handled = tuple(number for number in signal.valid_signals() - NOT_HANDLED if _ends(number))
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # the kernel would hide how workers ended
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _handle(lambda number, _: os._exit(128 + number))


def _ends(number: int) -> bool:
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def raise_once() -> None:
    """Makes the first signal from now on raise Signalled; those after it change nothing."""
    sys.unraisablehook = _raise_again
    _handle(_raise)


def raise_anew() -> None:
    """Raises Signalled where a signal has come: Python may have lost the exception meanwhile."""
    if _State.first is None:
        _State.first = _State.due
    if _State.first is not None:
        raise Signalled(_State.first)


def end_by(number: int) -> NoReturn:
    """Ends the run as this signal does."""
    _State.first = number
    raise Signalled(number)


def ignore() -> None:
    """Ignores all signals, at the very end."""
    _handle(signal.SIG_IGN)


def _handle(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in _State.handled:
        signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _State.first is None:
        _State.first = number
        if not _State.num_holds:
            raise Signalled(number)


@contextmanager
def interrupts(take: Callable[[], bool]) -> Iterator[None]:
    """Has Ctrl-C call `take`, between any two instructions; where that gives False the run ends as always.

    An ignored signal stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if not take() and callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def taken(take: Callable[[int], None]) -> Iterator[None]:
    """Has every signal that would end the run call `take` instead, between any two instructions.

    Those that were ignored before stay ignored.
    """
    before = {number: signal.getsignal(number) for number in _State.handled}
    _handle(lambda number, _: take(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Holds signals back until the body is done; one that comes meanwhile raises Signalled behind it.

    Python runs handlers in the main thread alone: no other one is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _State.first
    _State.num_holds += 1
    try:
        yield
    finally:
        _State.num_holds -= 1
        if _State.first is not None and before is None and not _State.num_holds:
            raise Signalled(_State.first)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Python lets no exception out of some places, such as __del__: the signal is raised anew elsewhere."""
    if not isinstance(unraisable.exc_value, Signalled):
        sys.__unraisablehook__(unraisable)
        return
    _State.first, _State.due = None, unraisable.exc_value.number
    threading.Timer(RETRY_SECONDS, os.kill, (os.getpid(), unraisable.exc_value.number)).start()
