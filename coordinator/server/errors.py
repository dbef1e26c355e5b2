"""The error that a client is told, before any protocol gives it its own form."""

from __future__ import annotations

MAX_CHARACTERS = 1000  # of a sentence, which may quote what the client has sent


class ApiError(Exception):
    """A request ends with this status and sentence.

    status: of HTTP; 400 for what the client can mend, 429 where too many wait, 503 while no model runs.
    parameter: the field of the body that is wrong, where it is one. kind: a word that programs compare.
    """

    def __init__(
        self, status: int, message: str, *, parameter: str | None = None, kind: str | None = None
    ) -> None:
        if len(message) > MAX_CHARACTERS:
            message = f"{message[: MAX_CHARACTERS - 3]}..."
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter
        self.kind = kind
