"""The application: all protocols over one loaded model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

import tplaunch
from tplaunch.coordinator.server.anthropic.router import make_anthropic_router
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.forms import error_body
from tplaunch.coordinator.server.openai.router import make_openai_router
from tplaunch.coordinator.server.responses.router import make_responses_router
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.settings import LIMITS, ClientLimits
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.serving.opened import Opened

# A protocol is a folder, and a line here. Its handlers find the model by state.service_of.
ROUTERS: tuple[Callable[[], APIRouter], ...] = (
    make_openai_router,
    make_responses_router,
    make_anthropic_router,
)


def make_app(opened: Opened, names: Sequence[str], limits: ClientLimits = LIMITS) -> FastAPI:
    """Returns the application. names: by which clients know the model; the first is what answers say."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(opened, names[0])
        yield

    # No pages of documentation: they would load scripts of others.
    app = FastAPI(
        title="tplaunch", version=tplaunch.__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.limits, app.state.names = limits, tuple(names)
    for make_router in ROUTERS:
        app.include_router(make_router())
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(HTTPException, _tell)
    return app


async def _tell(request: Request, error: Exception) -> Response:
    """Returns an error in the form of the path's protocol."""
    if isinstance(error, HTTPException):  # of the routes: no such path, or no such method there
        sentence = f"{request.method} {request.url.path:.200}: {error.detail}"
        told, headers = ApiError(error.status_code, sentence), dict(error.headers or {})
    else:
        assert isinstance(error, ApiError), "handlers raise nothing else"
        told, headers = error, {}
    if told.status == 429:
        headers["retry-after"] = "1"
    body = dumped(error_body(request.url.path, told))
    return Response(body, told.status, headers, media_type="application/json")
