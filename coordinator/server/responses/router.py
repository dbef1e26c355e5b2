"""The paths of Responses."""

from __future__ import annotations

import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tplaunch.coordinator.server.bodies import read_json
from tplaunch.coordinator.server.fields import Fields
from tplaunch.coordinator.server.replies import as_json, reply
from tplaunch.coordinator.server.responses.request import wanted_of
from tplaunch.coordinator.server.responses.store import Store
from tplaunch.coordinator.server.responses.writer import ResponseWriter
from tplaunch.coordinator.server.state import check_model, limits_of, service_of


def make_responses_router() -> APIRouter:
    """Returns the paths, with a store of their own."""
    router, store = APIRouter(), Store()

    @router.post("/v1/responses")
    async def respond(request: Request) -> Response:
        """Answers a conversation."""
        created, body = int(time.time()), await read_json(request)
        check_model(request, Fields(body).text("model"))
        service = service_of(request)
        wanted = wanted_of(body, limits_of(request), f"resp_{uuid.uuid4().hex}", service.name, store)
        answer = await service.chat(wanted.request)
        writer = ResponseWriter(wanted.head, created, summarizes=wanted.summarizes)

        def keep(response: dict[str, Any]) -> None:
            if wanted.keeps:
                store.keep(response, wanted.items)

        return await reply(request, answer, writer, stream=wanted.stream, done=keep)

    @router.post("/v1/responses/input_tokens")
    async def count(request: Request) -> Response:
        """Counts the tokens of a conversation as the model would read it."""
        body = await read_json(request)
        check_model(request, Fields(body).text("model"))
        wanted = wanted_of(body, limits_of(request), "", "", store)
        _, tokens = await service_of(request).rendered(wanted.request)
        return as_json({"object": "response.input_tokens", "input_tokens": len(tokens)})

    @router.get("/v1/responses/{name}")
    async def response(name: str) -> Response:
        """Returns a response that is kept."""
        return as_json(store.response(name))

    @router.delete("/v1/responses/{name}")
    async def forget(name: str) -> Response:
        """Forgets a response that is kept."""
        store.forget(name)
        return as_json({"id": name, "object": "response", "deleted": True})

    return router
