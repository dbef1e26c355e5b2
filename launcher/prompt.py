"""Reads the lines that a person types at a terminal, and meanwhile waits for child processes, too."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tplaunch.launcher.signals import raise_anew

PROMPT = "> "
REPEAT_SECONDS = (0.02, 0.2)


class _ChildEnded(Exception):
    """While a line is awaited."""


def read_line(watch: Callable[[], None]) -> str:
    """A line without its end. Raises EOFError, and what `watch` raises once a child process has ended.

    The prompt goes to the terminal: never to a file that takes the answers.
    """
    with _signals_repeated(), _children_watched() as wait_for:
        while True:
            watch()
            try:
                return wait_for(_ask)
            except _ChildEnded:
                print(file=sys.stderr)  # what is said next begins a line of its own


def _ask() -> str:
    if sys.stdout.isatty():
        import readline  # noqa: F401  gives input() line editing and history

        return _edited_line()
    print(PROMPT, end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except OSError:  # the terminal has gone
        line = ""
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _edited_line() -> str:
    """input(), which may lose what a signal's handler has raised.

    Once it has that exception it looks for signals again. The handler of another one then runs while the
    exception is under way: what comes out is either one's, a SystemError, or a KeyboardInterrupt.
    """
    try:
        return input(PROMPT)
    except (_ChildEnded, KeyboardInterrupt):
        raise_anew()
        raise _ChildEnded from None
    except SystemError as error:
        raise_anew()
        if isinstance(error.__cause__, _ChildEnded):
            raise error.__cause__ from None
        raise


@contextmanager
def _children_watched() -> Iterator[Callable[[Callable[[], str]], str]]:
    """Yields a call that is given up by _ChildEnded when a child has ended since the last one, or does."""
    has_ended = is_waiting = False

    def note(_number: int, _frame: object) -> None:
        nonlocal has_ended, is_waiting
        if _a_child_has_ended():
            has_ended, was_waiting, is_waiting = True, is_waiting, False
            if was_waiting:
                raise _ChildEnded

    def wait_for(call: Callable[[], str]) -> str:
        nonlocal has_ended, is_waiting
        try:
            is_waiting = True  # from here on `note` raises; what it noted before is looked at now
            if has_ended:
                raise _ChildEnded
            return call()
        finally:
            is_waiting = has_ended = False

    before = signal.signal(signal.SIGCHLD, note)
    try:
        yield wait_for
    finally:
        signal.signal(signal.SIGCHLD, before)


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
    """And was not only stopped, or continued, which is told by the same signal."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
