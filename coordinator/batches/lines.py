"""Reads files of JSON objects, one a line, with limits on all that a file may bring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tplaunch.coordinator.batches.errors import InputError

MAX_LINE_BYTES = 16 << 20
MAX_LINES = 1_000_000
ENDLESS_BYTES = 1 << 30  # of one line, which is read to its end so that the next one is found


class LineError(ValueError):
    """A line has something wrong; a sentence without its number."""


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not empty, with their numbers from 1, without the newline at their end.

    Of a line that is too long only so much comes that it is refused. Raises InputError, also for one without
    an end.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number > MAX_LINES:
                    raise InputError(f"{path} has more than {MAX_LINES} lines; part it")
                num_bytes = len(line)
                while not line.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                    line = line[:MAX_LINE_BYTES] + rest[-2:]
                    num_bytes += len(rest)
                    if num_bytes > ENDLESS_BYTES:
                        raise InputError(f"{path}, line {number} has more than {ENDLESS_BYTES >> 30} GiB")
                if line.strip():
                    yield number, line.removesuffix(b"\n")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} can't be read: {error}") from error  # a name with a zero byte


def object_of(line: bytes) -> dict[str, Any]:
    """Returns the JSON object of a line. Raises LineError."""
    if len(line) > MAX_LINE_BYTES:
        raise LineError(f"it has more than {MAX_LINE_BYTES >> 20} MiB")
    try:
        found = json.loads(line.decode(), parse_constant=_refuse)
    except UnicodeDecodeError:
        raise LineError("it is not UTF-8") from None
    except RecursionError:
        raise LineError("it is nested too deeply") from None
    except ValueError as error:
        raise LineError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise LineError(f"a JSON object is needed, not of type {type(found).__name__}")
    return found


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of a file with the numbers of their lines. Raises InputError that names the line."""
    for number, line in numbered_lines(path):
        try:
            yield number, object_of(line)
        except LineError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
