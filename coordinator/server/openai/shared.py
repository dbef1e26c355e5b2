"""The parts that completions and chat completions have in common: heads of chunks, usage, several answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from tplaunch.coordinator.ids import new_id
from tplaunch.coordinator.server.answer import Answer, Delta
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.forms import openai_error
from tplaunch.coordinator.server.openai.fields import CommonFields
from tplaunch.coordinator.server.sse import dumped, event

DONE = b"data: [DONE]\n\n"


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """Returns the fields with which every body and every chunk of one answer begins."""
    return {"id": f"{prefix}-{new_id()}", "object": kind, "created": int(time.time()), "model": model}


def usage_of(answers: Sequence[Answer], hidden_tokens: int = 0) -> dict[str, Any]:
    """Returns the tokens that answers took. hidden_tokens: computed, but not asked for."""
    each = [answer.usage for answer in answers]
    prompt = sum(usage.prompt_tokens for usage in each)
    completion = sum(usage.completion_tokens for usage in each) - hidden_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in each)},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning_tokens for usage in each)},
    }


class StreamedUsage:
    """Adds usage to the chunks of a stream, as stream_options asks for it."""

    def __init__(self, fields: CommonFields, answers: Sequence[Answer]) -> None:
        options = fields.stream_options
        self._at_end = options is not None and bool(options.include_usage)
        self._always = self._at_end and options is not None and bool(options.continuous_usage_stats)
        self._answers = answers

    def chunk(self, value: dict[str, Any], dump: Callable[[Any], bytes] = dumped) -> bytes:
        """Returns a chunk as an event."""
        if self._at_end:
            value["usage"] = usage_of(self._answers) if self._always else None
        return event(value, dump=dump)

    def last(self, start: dict[str, Any], hidden_tokens: int = 0) -> bytes:
        """Returns the events that end a stream."""
        if not self._at_end:
            return DONE
        return event({**start, "choices": [], "usage": usage_of(self._answers, hidden_tokens)}) + DONE


def error_event(error: ApiError) -> bytes:
    """Returns the events that end a stream which fails."""
    return event(openai_error(error)) + DONE


async def all_begun(begun: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Returns the answers once all have begun. Raises what the first of them fails with; none runs then."""
    tasks = [asyncio.ensure_future(one) for one in begun]
    try:
        await asyncio.wait(tasks)
        answers = [task.result() for task in tasks]
    except BaseException:  # also where who asked is cancelled when some of them have begun
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        close_all([result for result in results if isinstance(result, Answer)])()
        raise
    return answers


def close_all(answers: Sequence[Answer]) -> Callable[[], None]:
    """Returns what closes the answers."""

    def close() -> None:
        for answer in answers:
            answer.close()

    return close


async def merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Delta]]:
    """Yields all news of all answers as they come, each with its answer's place. Raises ApiError."""
    if len(answers) == 1:
        async for delta in answers[0].deltas():
            yield 0, delta
        return
    news: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue()

    async def read(place: int, answer: Answer) -> None:
        try:
            async for delta in answer.deltas():
                news.put_nowait((place, delta))
            news.put_nowait(None)
        except Exception as error:
            news.put_nowait(error)

    tasks = [asyncio.ensure_future(read(*numbered)) for numbered in enumerate(answers)]
    try:
        num_open = len(tasks)
        while num_open:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
