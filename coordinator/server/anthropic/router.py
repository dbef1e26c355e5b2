"""The paths of Anthropic's protocol."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from tplaunch.coordinator.server.anthropic.request import wanted_of
from tplaunch.coordinator.server.anthropic.writer import MessageWriter
from tplaunch.coordinator.server.bodies import read_json
from tplaunch.coordinator.server.replies import as_json, reply
from tplaunch.coordinator.server.state import limits_of, service_of


def make_anthropic_router() -> APIRouter:
    """Returns the paths. They take any name of a model: programs ask for names that they have built in."""
    router = APIRouter()

    @router.post("/v1/messages")
    async def messages(request: Request) -> Response:
        """Answers a conversation."""
        wanted = wanted_of(await read_json(request), limits_of(request))
        service = service_of(request)
        answer = await service.chat(wanted.request)
        writer = MessageWriter(f"msg_{uuid.uuid4().hex}", service.name, wanted.stops)
        return await reply(request, answer, writer, stream=wanted.stream)

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        """Counts the tokens of a conversation as the model would read it."""
        wanted = wanted_of(await read_json(request), limits_of(request), counts=True)
        _, tokens = await service_of(request).rendered(wanted.request)
        return as_json({"input_tokens": len(tokens)})

    return router
