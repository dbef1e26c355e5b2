"""Listens on a socket, and runs an application there until it is told to end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI


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
    """Runs an application on a socket. Leaves signals to those who run it."""

    def __init__(self, app: FastAPI, on_start: Callable[[], None] = lambda: None) -> None:
        """on_start: is called once requests are taken."""
        super().__init__(uvicorn.Config(app, lifespan="on", ws="none", log_config=None, access_log=False))
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def serve_on(self, bound: socket.socket) -> None:
        """Returns once `should_exit` is set and all answers have ended."""
        await self.serve([bound])
