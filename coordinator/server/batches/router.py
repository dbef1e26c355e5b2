"""/v1/files and /v1/batches: OpenAI's protocol for many requests in a file."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import FileResponse, Response

from tplaunch.coordinator.batches.batch_lines import URLS
from tplaunch.coordinator.server.batches.folder import FullError, StoredFile
from tplaunch.coordinator.server.batches.record import Batch
from tplaunch.coordinator.server.batches.runner import Batches
from tplaunch.coordinator.server.batches.upload import PURPOSE, expires_after, receive_file
from tplaunch.coordinator.server.bodies import Body, read_body
from tplaunch.coordinator.server.described import takes
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.server.state import service_of

T = TypeVar("T", StoredFile, Batch)
WINDOW = re.compile("([0-9]{1,4})(h|d)")
MAX_WINDOW_SECONDS = 366 * 86400
MAX_BATCHES = 1000  # that are kept; the oldest that has ended makes room
METADATA = (16, 64, 512)  # pairs, and characters of a key and of a value: OpenAI's
PAGE, MAX_PAGE = 10000, 10000  # of files
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"enum": [PURPOSE]},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


class BatchFields(Body):
    """The body of a new batch."""

    input_file_id: str = Field(description="the id of a file that was uploaded")
    endpoint: str = Field(description="a text")
    completion_window: str = Field(description="a text such as 24h or 7d")
    metadata: dict[str, str] | None = Field(None, description="an object of texts, or null")
    output_expires_after: dict[str, Any] | None = Field(None, description="an object, or null")


def make_batches_router() -> APIRouter:
    """Returns the paths."""
    router = APIRouter()
    router.add_api_route("/v1/files", _upload, methods=["POST"], openapi_extra=UPLOAD)
    router.add_api_route("/v1/files", _files, methods=["GET"])
    router.add_api_route("/v1/files/{file_id}", _file, methods=["GET"])
    router.add_api_route("/v1/files/{file_id}", _delete, methods=["DELETE"])
    router.add_api_route("/v1/files/{file_id}/content", _content, methods=["GET"])
    router.add_api_route("/v1/batches", _create, methods=["POST"], openapi_extra=takes(BatchFields))
    router.add_api_route("/v1/batches", _batches, methods=["GET"])
    router.add_api_route("/v1/batches/{batch_id}", _batch, methods=["GET"])
    router.add_api_route("/v1/batches/{batch_id}/cancel", _cancel, methods=["POST"])
    return router


def _batches_of(request: Request) -> Batches:
    found = request.app.state.batches
    if found is None:
        raise ApiError(501, "this server keeps no files; start it with --files-dir", kind="not_supported")
    batches = cast(Batches, found)
    batches.folder.drop_expired({one.input_file_id for one in batches.all.values() if not one.has_ended})
    return batches


def _told(form: dict[str, Any]) -> Response:
    return Response(dumped(form), media_type="application/json")


async def _upload(request: Request) -> Response:
    """Keeps a file."""
    return _told((await receive_file(request, _batches_of(request).folder)).form())


async def _files(request: Request) -> Response:
    """Lists the files, the newest first."""
    purpose, order = request.query_params.get("purpose"), request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order must be asc or desc, not {order!r:.60}", parameter="order")
    files = [each for each in _batches_of(request).folder.all() if purpose in (None, each.purpose)]
    return _told(_page(request, files if order == "asc" else files[::-1], PAGE))


async def _file(request: Request, file_id: str) -> Response:
    """Describes a file."""
    return _told(_found(request, file_id).form())


async def _content(request: Request, file_id: str) -> Response:
    """Returns a file's content."""
    path = _batches_of(request).folder.path_of(_found(request, file_id).id)
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    return FileResponse(path, headers=headers, media_type="application/octet-stream")


async def _delete(request: Request, file_id: str) -> Response:
    """Removes a file, unless a batch still needs it."""
    batches, stored = _batches_of(request), _found(request, file_id)
    for batch in batches.all.values():
        if batch.input_file_id == stored.id and not batch.has_ended:
            raise ApiError(409, f"{stored.id} has the requests of {batch.id}, which is {batch.status}")
    batches.folder.drop(stored.id)
    return _told({"id": stored.id, "object": "file", "deleted": True})


async def _create(request: Request) -> Response:
    """Begins a batch."""
    fields, batches = await read_body(request, BatchFields), _batches_of(request)
    stored = batches.folder.find(fields.input_file_id)
    if stored is None or stored.purpose != PURPOSE:
        raise ApiError(
            400, f"no uploaded file is called {fields.input_file_id!r:.100}", parameter="input_file_id"
        )
    if fields.endpoint not in URLS:
        raise ApiError(
            400, f"endpoint must be {' or '.join(URLS)}, not {fields.endpoint!r:.60}", parameter="endpoint"
        )
    ended = [batch for batch in batches.all.values() if batch.has_ended]
    if len(batches.all) >= MAX_BATCHES:
        if not ended:
            raise ApiError(429, f"{MAX_BATCHES} batches wait already", kind="rate_limit_exceeded")
        batches.forget(ended[0])
    expires_at = int(time.time()) + _window_seconds(fields.completion_window)
    metadata = _checked_metadata(fields.metadata)
    output_seconds = expires_after("output_expires_after", fields.output_expires_after)
    try:
        output_id, error_id = batches.folder.create(), batches.folder.create()
    except FullError as error:
        raise ApiError(413, str(error), kind="files_full") from None
    batch = Batch(
        service_of(request).name,
        fields.endpoint,
        stored.id,
        fields.completion_window,
        expires_at,
        metadata,
        output_id,
        error_id,
        output_seconds=output_seconds,
    )
    batches.add(batch)
    return _told(batch.form())


async def _batches(request: Request) -> Response:
    """Lists the batches, the newest first."""
    return _told(_page(request, list(_batches_of(request).all.values())[::-1], 20))


async def _batch(request: Request, batch_id: str) -> Response:
    """Describes a batch."""
    return _told(_known(request, batch_id).form())


async def _cancel(request: Request, batch_id: str) -> Response:
    """Ends a batch."""
    batch = _known(request, batch_id)
    if batch.has_ended:
        raise ApiError(409, f"{batch.id} is {batch.status}: there is nothing to cancel")
    _batches_of(request).cancel(batch)
    return _told(batch.form())


def _found(request: Request, file_id: str) -> StoredFile:
    stored = _batches_of(request).folder.find(file_id)
    if stored is None:
        raise ApiError(404, f"no file is called {file_id!r:.100}", parameter="id")
    return stored


def _known(request: Request, batch_id: str) -> Batch:
    batch = _batches_of(request).all.get(batch_id)
    if batch is None:
        raise ApiError(404, f"no batch is called {batch_id!r:.100}", parameter="id")
    return batch


def _page(request: Request, listed: Sequence[T], size: int) -> dict[str, Any]:
    """Returns a part of a list, behind the one that `after` names. Raises ApiError."""
    limit, after = request.query_params.get("limit", f"{size}"), request.query_params.get("after")
    if not re.fullmatch("[0-9]{1,5}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise ApiError(400, f"limit must be 1 to {MAX_PAGE}, not {limit!r:.60}", parameter="limit")
    if after is not None:
        places = [place for place, each in enumerate(listed) if each.id == after]
        if not places:
            raise ApiError(400, f"after names nothing that is here: {after!r:.100}", parameter="after")
        listed = listed[places[0] + 1 :]
    page = listed[: int(limit)]
    return {
        "object": "list",
        "data": [each.form() for each in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(listed) > len(page),
    }


def _window_seconds(window: str) -> int:
    match = WINDOW.fullmatch(window)
    seconds = 0 if match is None else int(match[1]) * {"h": 3600, "d": 86400}[match[2]]
    if not 0 < seconds <= MAX_WINDOW_SECONDS:
        raise ApiError(
            400,
            f"completion_window must be hours or days, such as 24h or 7d, not {window!r:.60}",
            parameter="completion_window",
        )
    return seconds


def _checked_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    pairs, key_length, value_length = METADATA
    given = metadata or {}
    if len(given) > pairs or any(
        len(key) > key_length or len(value) > value_length for key, value in given.items()
    ):
        raise ApiError(
            400,
            f"metadata has at most {pairs} pairs, keys of {key_length} characters and values of"
            f" {value_length}",
            parameter="metadata",
        )
    return metadata
