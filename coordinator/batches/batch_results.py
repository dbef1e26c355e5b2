"""The results of a batch: a file to which whole lines are added, so that a batch can be gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tplaunch.coordinator.batches.batch_lines import BatchLine
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.ids import new_id

BEGIN = b'{"id": "batch_req_'  # of every result


def answered(line: BatchLine, status: int, body: Any) -> dict[str, Any]:
    """Returns the result of a line that was asked for: what the server would have answered."""
    response = {"status_code": status, "request_id": f"req_{new_id()}", "body": body}
    return {**_head(line), "response": response, "error": None}


def refused(line: BatchLine) -> dict[str, Any]:
    """Returns the result of a line that can't be asked for."""
    error = {"code": line.code, "message": f"line {line.number}: {line.fault}", "line": line.number}
    return {**_head(line), "response": None, "error": error}


def has_failed(result: dict[str, Any]) -> bool:
    """Tells if a result is no answer."""
    return result["response"] is None or result["response"]["status_code"] != 200


def _head(line: BatchLine) -> dict[str, Any]:
    return {"id": f"batch_req_{new_id()}", "custom_id": line.custom_id}


class Results:
    """The open file. done: the keys of the lines whose results are there."""

    def __init__(
        self, name: str, descriptor: int, done: set[str | int], before_write: Callable[[int], None]
    ) -> None:
        self._name, self._descriptor, self.done = name, descriptor, done
        self._before_write = before_write

    def add(self, line: BatchLine, result: dict[str, Any]) -> None:
        """Appends a result as one whole line. Raises InputError where it can't be written."""
        content = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self._before_write(len(content))
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError as error:
            raise InputError(f"{self._name} can't be written: {error.strerror}") from error
        self.done.add(line.key)


@contextmanager
def open_results(
    path: Path, name: str | None = None, before_write: Callable[[int], None] = lambda num_bytes: None
) -> Iterator[Results]:
    """Yields the file of results, made where it is not there; a line that was cut off at its end is removed.

    name: of the file, for errors. before_write: is told how many bytes are added, and may refuse by
    InputError.

    Raises InputError for a file that has something else in it, and while another batch writes there.
    """
    name = f"--out {path}" if name is None else name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{name} can't be written: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # /dev/full reads as zeros without an end
            raise InputError(f"{name} is no file: results are read again when the batch is gone on with")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{name} is written by another batch just now") from None
        done, whole_bytes = _read(path, name)
        os.ftruncate(descriptor, whole_bytes)
        yield Results(name, descriptor, done, before_write)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, name: str) -> tuple[set[str | int], int]:
    """Returns the keys of all whole lines, and how many bytes these have."""
    done: set[str | int] = set()
    whole_bytes = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line.startswith(BEGIN[: len(line)]):
                break  # the process ended while it wrote this one
            key = _key(line) if line.endswith(b"\n") else None
            if key is None or key in done:
                what = "is no result of a batch" if key is None else f"has the id {key!r:.80} again"
                raise InputError(f"{name}, line {number} {what}; name another file")
            done.add(key)
            whole_bytes += len(line)
    return done, whole_bytes


def _key(line: bytes) -> str | int | None:
    try:
        found = json.loads(line)
        custom_id = found["custom_id"]
        key = found["error"]["line"] if custom_id is None else custom_id
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return key if isinstance(key, str | int) and "response" in found else None
