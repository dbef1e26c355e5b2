"""Standard error that can't end a run: what nobody can read there is dropped."""

from __future__ import annotations

import io
import sys
from typing import Any


class _Forgiving(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:  # a pipe without a reader, a terminal that has gone, a disk that is full
            return len(data)


def forgive_standard_error() -> None:
    """Puts it in the place of sys.stderr, where there is one."""
    if isinstance(sys.stderr, io.TextIOWrapper):
        file = io.BufferedWriter(_Forgiving(sys.stderr.fileno(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(file, sys.stderr.encoding, "backslashreplace", line_buffering=True)
