"""The paths of the page: its files for everybody (access.py); rendering and status for those with a key."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

import tplaunch
from tplaunch.coordinator.server.bodies import Body, read_body
from tplaunch.coordinator.server.page.files import HEADERS, File, read_files
from tplaunch.coordinator.server.page.rendering import Rendering
from tplaunch.coordinator.server.page.status import ModelFacts, RankFacts, Watch
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.server.state import service_of


class Markdown(Body):
    """A text to render."""

    markdown: str = Field(description="a text")
    growing: bool = Field(False, description="true where more of it will come, or false")


def make_page_router() -> APIRouter:
    """Returns the paths."""
    router, files, rendering = APIRouter(include_in_schema=False), read_files(), Rendering()
    watches: dict[Service, Watch] = {}  # of the one that is served, once a page asks

    @router.post("/page/render")
    async def render(request: Request) -> Response:
        body = await read_body(request, Markdown)
        made = await rendering.render(body.markdown, is_growing=body.growing)
        return Response(dumped(asdict(made)), media_type="application/json")

    @router.get("/page/status")
    async def status(request: Request) -> Response:
        service = service_of(request)
        if service not in watches:
            facts, driver = await asyncio.to_thread(facts_of, service), service.opened.driver
            watches.setdefault(service, Watch(facts, driver.stats, driver.health))
        made = dumped(watches[service].status())
        return Response(made, headers={"cache-control": "no-store"}, media_type="application/json")

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _answer(files["index.html"], request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            return Response("no such file\n", 404, HEADERS, "text/plain")
        return _answer(files[name], request)

    return router


def facts_of(service: Service) -> ModelFacts:
    """Returns what the page shows of a model whatever happens to it."""
    engine, opened = service.opened.driver.session.engine, service.opened
    rows = [len(share.vocabulary) for share in engine.plan]
    ranks = [RankFacts(device, count / sum(rows)) for device, count in zip(engine.devices, rows, strict=True)]
    context = opened.driver.session.limits.context_length
    return ModelFacts(service.name, tplaunch.__version__, opened.template_source is not None, context, ranks)


def _answer(file: File, request: Request) -> Response:
    if file.is_known(request.headers.get("if-none-match", "")):
        return Response(None, 304, file.headers)
    return Response(file.content, 200, file.headers, file.kind)
