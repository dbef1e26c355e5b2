"""Has texts made into HTML in another thread, one at a time: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.page.markdown import MAX_CHARACTERS, Rendered, Renderer

MAX_WAITING = 16  # texts; a page that is refused shows its text as it is, and asks again


class Rendering:
    """Makes one text at a time, for all pages. It is used in one event loop."""

    def __init__(self) -> None:
        self._renderer = Renderer()
        self._turn = asyncio.Lock()
        self._num_waiting = 0

    async def render(self, text: str, *, is_growing: bool) -> Rendered:
        """Returns the HTML of a text; all of it is settled unless it still grows. Raises ApiError."""
        if len(text) > MAX_CHARACTERS:
            raise ApiError(
                413,
                f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are rendered at once",
                parameter="markdown",
            )
        if self._num_waiting >= MAX_WAITING:
            raise ApiError(
                429,
                f"{self._num_waiting} texts wait to be rendered; try again later",
                kind="rate_limit_exceeded",
            )
        self._num_waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._rendered, text, is_growing)
        finally:
            self._num_waiting -= 1

    def _rendered(self, text: str, is_growing: bool) -> Rendered:
        if is_growing:
            return self._renderer.growing(text)
        return Rendered(self._renderer.whole(text), text.count("\n"), "")
