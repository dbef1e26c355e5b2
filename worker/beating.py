"""Signs of life of a worker, from the first moment in which Python runs: nothing heavy is imported here."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence

OPTION = "--beats"


def beat_as_told(words: Sequence[str]) -> None:
    """Begins to beat where a worker's command line says so, as --beats=DESCRIPTOR:SECONDS."""
    told = next((word for word in words if word.startswith(f"{OPTION}=")), None)
    if told is not None:
        descriptor, _, seconds = told.partition("=")[2].partition(":")
        beat(int(descriptor), float(seconds))


def beat(descriptor: int, seconds: float) -> None:
    """Writes a byte to a pipe now and every so many seconds, from a thread that no device holds up."""

    def go_on() -> None:
        while _write(descriptor):
            time.sleep(seconds)

    if _write(descriptor):
        threading.Thread(target=go_on, name="tplaunch beats", daemon=True).start()


def _write(descriptor: int) -> bool:
    """Returns false where nobody has the pipe's other end any more."""
    try:
        with contextlib.suppress(BlockingIOError):  # nobody has read it for hours
            os.write(descriptor, b".")
    except OSError:
        return False
    return True
