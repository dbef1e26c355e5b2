"""Writes an answer as a Messages client reads it: as events in their order, and as one message."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from tplaunch.coordinator.server.answer import Delta, Usage
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.forms import anthropic_error
from tplaunch.coordinator.server.rendering import as_object
from tplaunch.coordinator.server.replies import Event
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
SIGNATURE = "tplaunch"  # of reasoning: clients send it back with it, and nothing here depends on it
EMPTY: dict[str, Event] = {
    "text": {"type": "text", "text": "", "citations": None},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
DELTAS = {"text": "text_delta", "thinking": "thinking_delta"}


class MessageWriter:
    """An answer's blocks, opened and closed as its pieces come; one at a time is open."""

    def __init__(self, id: str, model: str, stops: Sequence[str] = ()) -> None:
        """stops: the texts that the client has named to end the answer."""
        self._id, self._model, self._stops = id, model, stops
        self._blocks: list[Event] = []
        self._open: str | None = None  # text, thinking or tool_use
        self._arguments: list[str] = []  # of the call that is open, or of the last one
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None

    def begin(self, usage: Usage) -> list[Event]:
        """Returns the events before the first piece. The tokens out of the cache are told at the end."""
        return [{"type": "message_start", "message": self.whole(usage)}]

    def push(self, delta: Delta) -> list[Event]:
        """Returns the events of what is new."""
        if delta.finish_reason == "cancelled":
            raise ApiError(503, "the server ended this answer before it was complete", kind="server_error")
        events = [event for piece in delta.pieces for event in self._written(piece)]
        if delta.finish_reason is not None:
            events += self._closed()
            is_named = delta.finish_reason == "stop" and delta.stop_reason in self._stops
            self._stop_sequence = str(delta.stop_reason) if is_named else None
            reason = STOP_REASONS.get(delta.finish_reason, "end_turn")
            self._stop_reason = "stop_sequence" if is_named else reason
        return events

    def finish(self, usage: Usage) -> list[Event]:
        """Returns the events behind the last piece."""
        ending = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        return [
            {"type": "message_delta", "delta": ending, "usage": usage_of(usage)},
            {"type": "message_stop"},
        ]

    def fail(self, error: ApiError) -> list[Event]:
        """Returns the event that ends an answer which fails."""
        return [anthropic_error(error)]

    def whole(self, usage: Usage) -> Event:
        """Returns the message as it is by now."""
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [dict(block) for block in self._blocks],
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": usage_of(usage),
        }

    def _written(self, piece: Piece) -> Iterator[Event]:
        if isinstance(piece, Content) and piece.text:
            yield from self._text("text", piece.text)
        elif isinstance(piece, Reasoning) and piece.text:
            yield from self._text("thinking", piece.text)
        elif isinstance(piece, CallBegin):
            id = piece.id or f"toolu_{uuid.uuid4().hex}"
            self._arguments = []
            yield from self._begun({"type": "tool_use", "id": id, "name": piece.name, "input": {}})
        elif isinstance(piece, CallArguments) and piece.text:
            self._arguments.append(piece.text)
            yield self._delta({"type": "input_json_delta", "partial_json": piece.text})
        elif isinstance(piece, CallEnd):
            yield from self._closed()

    def _text(self, kind: str, text: str) -> Iterator[Event]:
        if self._open != kind:
            yield from self._begun(dict(EMPTY[kind]))
        self._blocks[-1][kind] += text
        yield self._delta({"type": DELTAS[kind], kind: text})

    def _begun(self, block: Event) -> Iterator[Event]:
        yield from self._closed()
        self._blocks.append(block)
        self._open = block["type"]
        index = len(self._blocks) - 1
        yield {"type": "content_block_start", "index": index, "content_block": dict(block)}
        if not index:
            yield {"type": "ping"}

    def _closed(self) -> Iterator[Event]:
        if self._open is None:
            return
        if self._open == "thinking":
            self._blocks[-1]["signature"] = SIGNATURE
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        if self._open == "tool_use":
            self._blocks[-1]["input"] = as_object("".join(self._arguments))
        self._open = None
        yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _delta(self, delta: Event) -> Event:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}


def usage_of(usage: Usage) -> dict[str, int]:
    """Returns the tokens taken; those of the prompt that were in the cache are counted apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
