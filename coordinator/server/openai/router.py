"""The paths of OpenAI's protocol."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from tplaunch.coordinator.server.described import takes
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.chat import answer_chat
from tplaunch.coordinator.server.openai.completions import complete
from tplaunch.coordinator.server.openai.fields import ChatFields, CompletionFields
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.server.state import check_model, service_of


def make_openai_router() -> APIRouter:
    """Returns the paths."""
    router, started = APIRouter(), int(time.time())

    def described(request: Request, name: str) -> dict[str, object]:
        service = service_of(request)
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "tplaunch",
            "max_model_len": service.opened.driver.session.limits.context_length,
        }

    @router.get("/v1/models")
    async def models(request: Request) -> Response:
        """Lists the model."""
        listed = {"object": "list", "data": [described(request, service_of(request).name)]}
        return Response(dumped(listed), media_type="application/json")

    @router.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        """Describes the model."""
        check_model(request, name)
        return Response(dumped(described(request, name)), media_type="application/json")

    @router.post("/v1/embeddings")
    async def embeddings() -> Response:
        """Refuses: models are run for their text."""
        raise ApiError(501, "embeddings are not supported: this server makes text", kind="not_supported")

    router.add_api_route("/v1/completions", complete, methods=["POST"], openapi_extra=takes(CompletionFields))
    router.add_api_route(
        "/v1/chat/completions", answer_chat, methods=["POST"], openapi_extra=takes(ChatFields)
    )
    return router
