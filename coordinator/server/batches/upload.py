"""Reads a form with a file from a client, piece by piece: the file goes to the folder, not to memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from tplaunch.coordinator.server.batches.folder import Folder, FullError, StoredFile
from tplaunch.coordinator.server.errors import ApiError

MAX_HEADER_BYTES, MAX_VALUE_BYTES, MAX_PARTS = 8192, 4096, 32
FORM_BYTES = 64 << 10  # of a form around its file, at most
PURPOSE = "batch"
EXPIRES = "expires_after"
EXPIRES_SECONDS = (3600, 30 * 86400)  # OpenAI's


async def receive_file(request: Request, folder: Folder) -> StoredFile:
    """Keeps the file that a client sends. Raises ApiError, and then nothing of it stays."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise ApiError(400, "a file comes as multipart/form-data, with the fields purpose and file")
    declared = request.headers.get("content-length", "")
    try:
        if declared.isdecimal() and int(declared[:20]) > folder.free + FORM_BYTES:
            folder.take(int(declared[:20]))
        file_id = folder.create()
        path = folder.path_of(file_id)
        with path.open("wb") as file:
            form = _Form(folder, file)
            try:
                await _parse(request.stream(), boundary, form)
                form.check()
                expires_seconds = form.expires_seconds
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
                return folder.keep(file_id, form.filename or "", PURPOSE, expires_seconds)
            except BaseException:
                folder.give_back(form.num_bytes - path.stat().st_size)  # what never came to the disk
                folder.drop(file_id)
                raise
    except FullError as error:
        raise ApiError(413, str(error), kind="files_full") from None
    except OSError as error:
        raise ApiError(500, f"the file can't be kept: {error.strerror}", kind="server_error") from error


def expires_after(name: str, given: Mapping[str, Any] | None) -> int | None:
    """Returns how many seconds a file is kept, as a client has it; None for good. Raises ApiError."""
    if given is None:
        return None
    least, most = EXPIRES_SECONDS
    seconds = given.get("seconds")
    if given.get("anchor") != "created_at" or type(seconds) is not int or not least <= seconds <= most:
        raise ApiError(
            400,
            f"{name} must have the anchor created_at and {least} to {most} as seconds",
            parameter=name,
        )
    return seconds


async def _parse(stream: AsyncIterator[bytes], boundary: bytes, form: _Form) -> None:
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_field": form.add_header_name,
            "on_header_value": form.add_header_value,
            "on_header_end": form.end_header,
            "on_part_data": form.add_data,
            "on_part_end": form.end_part,
            "on_end": form.end,
        },
    )
    try:
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except ClientDisconnect:
        raise ApiError(400, "the client left before its file was whole") from None
    except FormParserError as error:
        raise ApiError(400, f"the form can't be read: {error}") from None


@dataclass
class _Form:
    """The parts of a form as far as they have come. The parser calls it."""

    folder: Folder
    file: BinaryIO
    filename: str | None = None  # None until the file comes
    values: dict[str, bytes] = field(default_factory=dict)
    num_bytes: int = 0  # of the file
    _num_parts: int = 0
    _num_around: int = 0  # bytes of the form that are not the file's
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _name: str | None = None  # of the part that comes
    _is_file: bool = False
    _is_whole: bool = False

    def begin_part(self) -> None:
        self._num_parts += 1
        self._name, self._is_file = None, False
        if self._num_parts > MAX_PARTS:
            raise ApiError(400, f"the form has more than {MAX_PARTS} parts")

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._add(self._header[0], data[start:end])

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add(self._header[1], data[start:end])

    def end_header(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = bytearray(), bytearray()
        if name != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self.filename is not None:
                raise ApiError(400, "the form has two files; send one at a time", parameter="file")
            self._is_file = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.folder.take(end - start)
            self.num_bytes += end - start
            self.file.write(data[start:end])
            return
        value = bytearray(self.values.get(self._name or "", b""))
        self._add(value, data[start:end], MAX_VALUE_BYTES)
        self.values[self._name or ""] = bytes(value)

    def end_part(self) -> None:
        self._is_file = False

    def end(self) -> None:
        self._is_whole = True

    def check(self) -> None:
        """Raises ApiError for a form that is not as it must be."""
        if not self._is_whole:
            raise ApiError(400, "the form breaks off before its end")
        if self.filename is None:
            raise ApiError(400, "file is missing, and is needed", parameter="file")
        purpose = self.values.get("purpose", b"").decode("utf-8", "replace")
        if purpose != PURPOSE:
            given = f"not {purpose!r:.60}" if purpose else "and is missing"
            raise ApiError(
                400, f"purpose must be {PURPOSE!r}, {given}: files are for batches", parameter="purpose"
            )

    @property
    def expires_seconds(self) -> int | None:
        """How long the file is kept; None for good. Raises ApiError."""
        given = {
            name[len(EXPIRES) + 1 : -1]: value.decode("utf-8", "replace")
            for name, value in self.values.items()
            if name.startswith(f"{EXPIRES}[")
        }
        seconds = given.get("seconds", "")
        if seconds.isascii() and seconds.isdecimal():
            return expires_after(EXPIRES, {**given, "seconds": int(seconds[:20])})
        return expires_after(EXPIRES, given or None)

    def _add(self, kept: bytearray, more: bytes, most: int = MAX_HEADER_BYTES) -> None:
        kept += more
        self._num_around += len(more)
        if len(kept) > most or self._num_around > FORM_BYTES:
            raise ApiError(400, f"a field or a header of the form has more than {most} bytes")
