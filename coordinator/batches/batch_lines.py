"""The lines of a batch: requests in OpenAI's form, each answered by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.batches.lines import LineError, numbered_lines, object_of

URLS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
MAX_ID_BYTES = 1024
SEED_BITS = 63


@dataclass(frozen=True)
class BatchLine:
    """A line of a batch. fault: the reason why it is not asked for; its result tells it, and the code."""

    number: int
    custom_id: str | None
    url: str = ""
    body: Mapping[str, Any] | None = None
    fault: str | None = None
    code: str = "invalid_line"

    @property
    def key(self) -> str | int:
        """Names the line in the file of results: by its id, or by its number where it has none."""
        return self.number if self.custom_id is None else self.custom_id


def batch_lines(path: Path) -> Iterator[BatchLine]:
    """Yields the lines of a batch. Raises InputError where the file can't be read."""
    for number, line in numbered_lines(path):
        yield _line(number, line)


def batch_keys(path: Path) -> set[str | int]:
    """Returns the keys of all lines. Raises InputError, also where two lines have one id."""
    if not path.is_file() and path.exists():
        raise InputError(f"{path} is no file: a batch is read twice")
    numbers: dict[str | int, int] = {}
    for line in batch_lines(path):
        first = numbers.setdefault(line.key, line.number)
        if first != line.number:
            raise InputError(
                f"{path}, line {line.number}: the custom_id {line.custom_id!r:.80} is that of line {first};"
                " each request needs one of its own"
            )
    if not numbers:
        raise InputError(f"{path} is empty: a batch has a request a line")
    return set(numbers)


def seeded(line: BatchLine, seed: int | None) -> Mapping[str, Any]:
    """Returns the body, with a seed that follows from this one and the line's id where it has none."""
    assert line.body is not None, "a line that is asked for"
    if seed is None or line.body.get("seed") is not None:
        return line.body
    digest = hashlib.sha256(f"{seed} {line.custom_id}".encode()).digest()
    return {**line.body, "seed": int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)}


def _line(number: int, line: bytes) -> BatchLine:
    custom_id: str | None = None
    try:
        found = object_of(line)
        custom_id = _custom_id(found)
        url, body = _url(found), found.get("body")
        if not isinstance(body, dict):
            raise LineError("body is an object: the request as the server takes it")
        if body.get("stream"):
            raise LineError("stream has no place in a batch: an answer is one line")
    except LineError as error:
        return BatchLine(number, custom_id, fault=str(error))
    return BatchLine(number, custom_id, url, body)


def _custom_id(found: Mapping[str, Any]) -> str:
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("custom_id is a text that is not empty: it says to which request a result belongs")
    try:
        size = len(custom_id.encode())
    except UnicodeEncodeError:
        raise LineError("custom_id has half of a character's escape") from None
    if size > MAX_ID_BYTES:
        raise LineError(f"custom_id has more than {MAX_ID_BYTES} bytes")
    return custom_id


def _url(found: Mapping[str, Any]) -> str:
    method, url = found.get("method", "POST"), found.get("url")
    if method != "POST":
        raise LineError(f"method is POST, not {method!r:.40}")
    if url not in URLS:
        raise LineError(f"url is {' or '.join(URLS)}, not {url!r:.80}")
    return str(url)
