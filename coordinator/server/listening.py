"""Listens on a socket, and runs an application there until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from tplaunch.coordinator.server.connections import BACKLOG, Connection, make_room
from tplaunch.coordinator.server.ends import LOOK_SECONDS

GRACE_SECONDS = 2  # for connections to close, once the server shall end


class ListenError(OSError):
    """The address can't be listened on; one sentence that says why."""


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound. port: 0 for a free one. Raises ListenError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"--host {host}: {_reason(error)}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ListenError(
            f"can't listen on {host} port {port}: {_reason(error)}; --port 0 takes a free one"
        ) from error
    return bound


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def url_of(bound: socket.socket, *, is_secure: bool = False) -> str:
    """Returns the address that a browser takes."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_secure else 'http'}://{shown}:{port}"


class HttpServer(uvicorn.Server):
    """Runs an application on a socket, until its `Ends` says so. Leaves signals to those who run it."""

    def __init__(
        self,
        app: FastAPI,
        on_start: Callable[[], None] = lambda: None,
        *,
        max_connections: int | None = None,
        certificate: tuple[Path, Path | None] | None = None,
    ) -> None:
        """on_start: is called once requests are taken. certificate: its file and its key's, for https."""
        certfile, keyfile = certificate or (None, None)
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                http=Connection,
                backlog=BACKLOG,
                log_config=None,
                log_level="error",  # what clients do wrong is told to them
                access_log=False,
                server_header=False,
                limit_concurrency=None if max_connections is None else make_room(max_connections),
                timeout_graceful_shutdown=GRACE_SECONDS,
                ssl_certfile=certfile,
                ssl_keyfile=keyfile,
            )
        )
        self._app, self._on_start = app, on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def serve_on(self, bound: socket.socket, drain_seconds: float = 0.0) -> None:
        """Serves until `drain` or `stop` of the application's Ends is called, and then what that says.

        drain_seconds: how long requests may go on after `drain`.
        """
        watch = asyncio.ensure_future(self._wait(drain_seconds))
        try:
            await self.serve([bound])
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _wait(self, drain_seconds: float) -> None:
        try:
            while not self.started:
                await asyncio.sleep(LOOK_SECONDS)
            state = self._app.state
            await state.ends.wait(state.service, drain_seconds, lambda: len(self.server_state.tasks))
        finally:  # also after a fault: a server that can't be ended is worse than none
            self.should_exit = True


def check_certificate(certfile: Path, keyfile: Path | None) -> None:
    """Raises ListenError for a certificate that can't be used."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ValueError) as error:
        raise ListenError(f"--ssl-certfile {certfile}: {_reason(error)}") from error


def _no_password() -> NoReturn:
    raise ValueError("its key has a password, which nobody is there to type")
