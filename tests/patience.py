"""How tests wait: long for what must come, and by a clock that stands still while the machine does."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

from tplaunch.running_clock import LOOK_SECONDS, RunningClock

PATIENCE = 120.0  # seconds for what takes a moment, on a slow machine that does much else
SOON = 15.0  # for what must not wait for a timeout: a run's is 60 s by default


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE, complaint: str = "") -> None:
    """Polls where there is nothing to select on. AssertionError where it takes longer."""
    clock, pause = RunningClock(), threading.Event()
    while not condition():
        assert clock() < seconds, complaint or f"it did not come within {seconds} s"
        pause.wait(0.005)


def end_of(process: subprocess.Popen[str], seconds: float = PATIENCE) -> str:
    """Waits for the end of a process with pipes, and returns its standard error.

    AssertionError where it still runs after so many seconds, of which only those count in which this process
    ran: a machine that stalls is not the program's fault.
    """
    clock = RunningClock()
    while True:
        try:
            return process.communicate(timeout=LOOK_SECONDS)[1]
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")
            assert clock() < seconds, f"still running after {seconds} s; it said: {said}"
