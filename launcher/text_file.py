"""Reads a file that the command line names, never more of it than memory should hold: it may be endless."""

from __future__ import annotations

from pathlib import Path

from tplaunch.launcher.errors import UsageError


def read_some(path: Path, most_bytes: int, option: str = "") -> bytes:
    """Returns the bytes of a file, which may be a pipe, such as a shell's <(command). Raises UsageError.

    most_bytes: of a longer file so many come, and one more. option: stands before the name in the error.
    """
    try:
        with path.open("rb") as file:
            return file.read(most_bytes + 1)
    except OSError as error:
        raise UsageError(f"{option}{path} can't be read: {error.strerror}") from error
    except ValueError as error:  # a name with a zero byte
        raise UsageError(f"{option}{str(path)!r} can't be read: {error}") from error
