"""The application: all protocols over one loaded model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import Response

import tplaunch
from tplaunch.coordinator.batches.app_answers import answer_by
from tplaunch.coordinator.server.access import Access
from tplaunch.coordinator.server.anthropic.router import make_anthropic_router
from tplaunch.coordinator.server.batches.folder import Folder
from tplaunch.coordinator.server.batches.router import make_batches_router
from tplaunch.coordinator.server.batches.runner import Batches
from tplaunch.coordinator.server.described import ERRORS
from tplaunch.coordinator.server.ends import Ends
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.guard import Guard, error_response
from tplaunch.coordinator.server.metrics import Metrics
from tplaunch.coordinator.server.openai.router import make_openai_router
from tplaunch.coordinator.server.page.router import make_page_router
from tplaunch.coordinator.server.responses.router import make_responses_router
from tplaunch.coordinator.server.service import MAX_OPEN, Service
from tplaunch.coordinator.server.settings import LIMITS, ClientLimits
from tplaunch.coordinator.server.status import make_status_router
from tplaunch.coordinator.server.tokens import make_tokens_router
from tplaunch.coordinator.serving.opened import Opened

# A protocol is a folder, and a line here. Its handlers find the model by state.service_of.
ROUTERS: tuple[Callable[[], APIRouter], ...] = (
    make_openai_router,
    make_responses_router,
    make_anthropic_router,
    make_batches_router,
    make_tokens_router,
    make_status_router,
    make_page_router,
)
PREFLIGHT_SECONDS = 600
OPEN_ACCESS = Access()


def make_app(
    opened: Opened,
    names: Sequence[str],
    *,
    client_limits: ClientLimits = LIMITS,
    access: Access = OPEN_ACCESS,
    max_open: int = MAX_OPEN,
    trusts_templates: bool = False,
    begins_tokens: bool = False,
    folder: Folder | None = None,
    tool_format: str | None = None,
) -> FastAPI:
    """Returns the application. names: by which clients know the model; the first is what answers say.

    max_open: requests that are computed or wait; more get a 429. trusts_templates: clients may bring chat
    templates of their own. begins_tokens: prompts of token ids get the begin token that they lack. folder:
    for files and batches; None keeps none. tool_format: in which the model writes calls, in place of the
    template's.
    """
    metrics, ends = Metrics(opened.driver, names[0]), Ends()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(
            opened,
            names[0],
            max_open=max_open,
            clock=metrics,
            trusts_templates=trusts_templates,
            tool_format=tool_format,
        )
        batches = None if folder is None else Batches(folder, service, answer_by(app), ends)
        app.state.batches = batches
        yield
        if batches is not None:
            await batches.close()
        service.close()

    # No pages of documentation: they would load scripts of others.
    app = FastAPI(
        title="tplaunch", version=tplaunch.__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.limits, app.state.names = client_limits, tuple(names)
    app.state.begins_tokens = begins_tokens
    app.state.metrics, app.state.ends, app.state.batches = metrics, ends, None
    for make_router in ROUTERS:
        app.include_router(make_router(), responses=ERRORS)
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(HTTPException, _tell)
    app.add_exception_handler(Exception, _tell)
    app.add_middleware(Guard, access=access, ends=ends)
    if access.origins:  # before the guard: a browser asks for leave without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            max_age=PREFLIGHT_SECONDS,
        )
    return app


async def _tell(request: Request, error: Exception) -> Response:
    """Returns an error in the form of the path's protocol."""
    path = request.url.path
    if isinstance(error, HTTPException):  # of the routes: no such path, or no such method there
        told = ApiError(error.status_code, f"{request.method} {path:.200}: {error.detail}")
        response = error_response(path, told)
        response.headers.update(error.headers or {})
        return response
    if isinstance(error, ApiError):
        return error_response(path, error)
    return error_response(path, ApiError(500, "the server failed at this request; its log has more"))
