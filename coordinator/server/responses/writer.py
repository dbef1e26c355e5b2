"""Writes an answer as a Responses client reads it: as events in their order, and as one response."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.server.answer import Delta, Usage
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.replies import Event
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)

ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


@dataclass(frozen=True)
class Form:
    """The names under which one kind of text goes out: its item's, its part's, and its events'."""

    item: Mapping[str, Any]  # the fields in which it differs from others
    field: str  # of the item, where its one part stands
    part: Mapping[str, Any]
    place: str  # the name of the part's place, which is always 0
    part_event: str
    text_event: str
    extras: Mapping[str, Any]  # that the events of its text have beside it


MESSAGE = Form(
    {"type": "message", "role": "assistant", "content": []},
    "content",
    {"type": "output_text", "annotations": [], "logprobs": []},
    "content_index",
    "response.content_part",
    "response.output_text",
    {"logprobs": []},
)
REASONING = Form(
    {"type": "reasoning", "summary": [], "content": []},
    "content",
    {"type": "reasoning_text"},
    "content_index",
    "response.content_part",
    "response.reasoning_text",
    {},
)
SUMMARY = Form(
    {"type": "reasoning", "summary": []},
    "summary",
    {"type": "summary_text"},
    "summary_index",
    "response.reasoning_summary_part",
    "response.reasoning_summary_text",
    {},
)
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
CALL_EVENT = "response.function_call_arguments"


class ResponseWriter:
    """An answer's items, opened and closed as its pieces come; one at a time is open."""

    def __init__(self, head: Mapping[str, Any], created: int, *, summarizes: bool = False) -> None:
        """head: the response's fields that are known before. created: in seconds since 1970. summarizes:
        reasoning goes out in the form of a summary.
        """
        self._head = {**head, "created_at": created}
        self._reasoning = SUMMARY if summarizes else REASONING
        self._number = 0
        self._output: list[Event] = []  # the last of them is open, where one is
        self._form: Form | None = None  # of the open item's text; a call has none
        self._texts: list[str] | None = None  # of the open item
        self._status = "in_progress"
        self._error: Mapping[str, Any] | None = None

    def begin(self, usage: Usage) -> list[Event]:
        """Returns the events before the first item. The tokens taken are told at the end."""
        names = ("response.created", "response.in_progress")
        return [self._event(name, response=self.whole(None)) for name in names]

    def push(self, delta: Delta) -> list[Event]:
        """Returns the events of what is new."""
        if delta.finish_reason == "cancelled":
            raise ApiError(503, "the server ended this answer before it was complete", kind="server_error")
        events = [event for piece in delta.pieces for event in self._written(piece)]
        if delta.finish_reason is not None:
            self._status = "incomplete" if delta.finish_reason == "length" else "completed"
            events += self._closed(self._status)
        return events

    def finish(self, usage: Usage) -> list[Event]:
        """Returns the events behind the last item."""
        return [self._event(f"response.{self._status}", response=self.whole(usage))]

    def fail(self, error: ApiError) -> list[Event]:
        """Returns the events that end an answer which fails."""
        events = [*self._closed("incomplete")]
        self._status = "failed"
        self._error = {"code": ERROR_CODES.get(error.status, "server_error"), "message": error.message}
        return [*events, self._event("response.failed", response=self.whole(None))]

    def whole(self, usage: Usage | None) -> Event:
        """Returns the response as it is by now; usage: of one that has ended."""
        is_cut = self._status == "incomplete"
        return {
            **self._head,
            "status": self._status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [*self._output],
            "usage": None if usage is None else usage_of(usage),
        }

    def _written(self, piece: Piece) -> Iterator[Event]:
        if isinstance(piece, Content) and piece.text:
            yield from self._text(MESSAGE, piece.text)
        elif isinstance(piece, Reasoning) and piece.text:
            yield from self._text(self._reasoning, piece.text)
        elif isinstance(piece, CallBegin):
            call = {"call_id": piece.id or f"call_{uuid.uuid4().hex}", "name": piece.name, "arguments": ""}
            yield from self._begun({"type": "function_call", **call}, None)
        elif isinstance(piece, CallArguments) and piece.text:
            assert self._texts is not None, "a call has begun"
            self._texts.append(piece.text)
            yield self._event(f"{CALL_EVENT}.delta", **self._where(), delta=piece.text)
        elif isinstance(piece, CallEnd):
            yield from self._closed("completed" if piece.is_complete else "incomplete")

    def _text(self, form: Form, text: str) -> Iterator[Event]:
        if self._texts is None or self._form is not form:
            yield from self._begun(form.item, form)
            part = {**form.part, "text": ""}
            yield self._event(f"{form.part_event}.added", **self._where(), part=part)
        assert self._texts is not None
        self._texts.append(text)
        yield self._event(f"{form.text_event}.delta", **self._where(), **form.extras, delta=text)

    def _begun(self, fields: Mapping[str, Any], form: Form | None) -> Iterator[Event]:
        yield from self._closed("completed")
        id = f"{PREFIXES[fields['type']]}_{uuid.uuid4().hex}"
        self._output.append({"id": id, **fields, "status": "in_progress"})
        self._form, self._texts = form, []
        place = len(self._output) - 1
        yield self._event("response.output_item.added", output_index=place, item=self._output[-1])

    def _closed(self, status: str) -> Iterator[Event]:
        if self._texts is None:
            return
        text, form, where = "".join(self._texts), self._form, self._where()
        item = {**self._output[-1], "status": status}
        if form is None:
            item["arguments"] = text
            yield self._event(f"{CALL_EVENT}.done", **where, name=item["name"], arguments=text)
        else:
            part = {**form.part, "text": text}
            item[form.field] = [part]
            yield self._event(f"{form.text_event}.done", **where, **form.extras, text=text)
            yield self._event(f"{form.part_event}.done", **where, part=part)
        self._output[-1], self._texts = item, None  # another object: events that are on their way keep theirs
        place = len(self._output) - 1
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _where(self) -> dict[str, Any]:
        """Returns the place of the open item, and of its part."""
        place = {} if self._form is None else {self._form.place: 0}
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, **place}

    def _event(self, type: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": type, "sequence_number": number, **fields}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Returns the tokens taken; those that were in the cache count among the input's."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
