"""The paths by which those who look after a server ask how it is: /health, /metrics and /props."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

import tplaunch
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.metrics import CONTENT_TYPE
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.server.state import ends_of, metrics_of, service_of
from tplaunch.coordinator.server.tokens import tokenizer_facts
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


def make_status_router() -> APIRouter:
    """Returns the paths."""
    router = APIRouter()
    router.add_api_route("/health", _health, methods=["GET"])
    router.add_api_route("/metrics", _metrics, methods=["GET"])
    router.add_api_route("/props", _props, methods=["GET"])
    return router


async def _health(request: Request) -> Response:
    """Answers 200 while steps make progress or nothing is to do, and new requests are taken; else 503."""
    health = service_of(request).opened.driver.health()
    state, reason = health.state, health.reason
    found: dict[str, Any] = {"status": state}
    if health.is_ok and ends_of(request).is_draining:
        found["status"], reason = "draining", "the server ends, and takes no new requests"
    if reason is not None:
        found["reason"] = reason
    return Response(dumped(found), 200 if found["status"] == "ok" else 503, media_type="application/json")


async def _metrics(request: Request) -> Response:
    """Returns the metrics in Prometheus' text form."""
    return Response(metrics_of(request).text(), headers={"content-type": CONTENT_TYPE})


async def _props(request: Request) -> Response:
    """Returns the model's and the server's facts; llama.cpp's names where it has them."""
    service = service_of(request)
    session = service.opened.driver.session
    try:
        facts = await asyncio.to_thread(tokenizer_facts, service)
    except ApiError:  # the model has none that can be used
        facts = {}
    defaults = dataclasses.asdict(SamplingParams(max_tokens=None))
    return Response(
        dumped(
            {
                "model_alias": service.name,
                "model_names": request.app.state.names,
                "build_info": f"tplaunch {tplaunch.__version__}",
                "total_slots": session.limits.max_sequences,
                "default_generation_settings": {"n_ctx": session.limits.context_length, "params": defaults},
                **{name: facts.get(name) for name in ("chat_template", "bos_token", "eos_token")},
                "limits": dataclasses.asdict(request.app.state.limits),
            }
        ),
        media_type="application/json",
    )
