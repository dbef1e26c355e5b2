"""Finds, for handlers of all protocols, the model and the limits that the application holds."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from tplaunch.coordinator.server.ends import Ends
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.metrics import Metrics
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.settings import ClientLimits


def service_of(request: Request) -> Service:
    """Returns the model that this application serves."""
    return cast(Service, request.app.state.service)


def limits_of(request: Request) -> ClientLimits:
    """Returns how much one request may ask for."""
    return cast(ClientLimits, request.app.state.limits)


def begins_tokens(request: Request) -> bool:
    """Tells whether prompts of token ids get the begin token that they lack."""
    return bool(request.app.state.begins_tokens)


def metrics_of(request: Request) -> Metrics:
    """Returns what is counted and measured."""
    return cast(Metrics, request.app.state.metrics)


def ends_of(request: Request) -> Ends:
    """Returns whether and how the server ends."""
    return cast(Ends, request.app.state.ends)


def check_model(request: Request, name: str | None) -> None:
    """Raises ApiError where a client asks for another model; without a name it gets the one that is here."""
    names: tuple[str, ...] = request.app.state.names
    if name is not None and name not in names:
        raise ApiError(
            404,
            f"the model {name!r:.100} is not here; this server has {names[0]!r}",
            parameter="model",
            kind="model_not_found",
        )
