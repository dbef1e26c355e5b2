"""The forms in which protocols tell errors."""

from __future__ import annotations

import uuid
from typing import Any

from tplaunch.coordinator.server.errors import ApiError

ANTHROPIC_PATHS = ("/v1/messages",)
ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
OPENAI_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """Returns an error as the protocol of this path has it."""
    return anthropic_error(error) if path.startswith(ANTHROPIC_PATHS) else openai_error(error)


def openai_error(error: ApiError) -> dict[str, Any]:
    """Returns an error in OpenAI's form."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    kind = OPENAI_KINDS.get(error.status, usual)
    return {"error": {"message": error.message, "type": kind, "param": error.parameter, "code": error.kind}}


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """Returns an error in Anthropic's form."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = ANTHROPIC_KINDS.get(error.status, usual)
    told = {"type": kind, "message": error.message}
    return {"type": "error", "error": told, "request_id": f"req_{uuid.uuid4().hex}"}
