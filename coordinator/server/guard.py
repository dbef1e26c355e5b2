"""Stands before all paths: refuses clients that may not ask, and new requests while the server ends."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tplaunch.coordinator.batches.app_answers import IN_PROCESS
from tplaunch.coordinator.server.access import OPEN_PATHS, Access
from tplaunch.coordinator.server.ends import Ends
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.forms import error_body
from tplaunch.coordinator.server.sse import dumped

READS = ("GET", "HEAD", "OPTIONS")
RETRY_SECONDS = "1"


class Guard:
    """Passes on what may come in."""

    def __init__(self, app: ASGIApp, access: Access, ends: Ends) -> None:
        self._app, self._access, self._ends = app, access, ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises ApiError for what may not come in."""
        if IN_PROCESS not in scope:
            self._check_client(scope)
        if self._ends.is_draining and scope["method"] not in READS:
            raise ApiError(503, "the server ends, and takes no new requests", kind="server_is_ending")

    def _check_client(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._access.knows_name(host):
            raise ApiError(
                403,
                f"this server is not called {host!r:.100}; --host-name allows another name",
                kind="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._access.allows_origin(origin, host):
            raise ApiError(
                403,
                f"pages of {origin!r:.100} may not ask this server; --cors-origin allows it",
                kind="origin_not_allowed",
            )
        is_open = OPEN_PATHS.fullmatch(scope["path"]) is not None and scope["method"] in READS
        keys = headers.get("authorization", ""), headers.get("x-api-key", "")
        if not is_open and not self._access.has_key(*keys):
            raise ApiError(
                401,
                "a key is needed: send one of the server's as Authorization: Bearer KEY or x-api-key",
                kind="invalid_api_key",
            )


def error_response(path: str, error: ApiError) -> Response:
    """Returns an error in the form of the path's protocol."""
    headers = {"retry-after": RETRY_SECONDS} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(dumped(error_body(path, error)), error.status, headers, "application/json")
