"""Carries events from the driver's thread to event loops: all events of a step cross at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tplaunch.coordinator.serving.driver import Job, Listener
from tplaunch.coordinator.serving.request import Event, Output


class LoopListener(Listener):
    """Hands the events of an event loop's jobs to their streams, in that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.streams: dict[Job, Stream] = {}

    def begin(self, job: Job) -> None:
        self.loop.call_soon_threadsafe(self._begin, job)

    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        """Raises RuntimeError where the loop is closed."""
        self.loop.call_soon_threadsafe(self._hand_out, events)

    def fail(self, job: Job, error: Exception) -> None:
        self.loop.call_soon_threadsafe(self._fail, job, error)

    def _begin(self, job: Job) -> None:
        stream = self.streams.get(job)
        if stream is not None:
            stream.begin()

    def _hand_out(self, events: Sequence[tuple[Job, Event]]) -> None:
        for job, event in events:
            stream = self.streams.get(job)
            if stream is not None:
                stream.take(event)

    def _fail(self, job: Job, error: Exception) -> None:
        stream = self.streams.get(job)
        if stream is not None:
            stream.fail(error)


class Stream:
    """A request as its event loop has heard of it. But for abort, all is called in the loop's thread."""

    def __init__(self, listener: LoopListener, job: Job) -> None:
        self.job = job
        self.heard = [Output(index) for index in range(job.params.n)]
        self._listener, self._has_news, self._has_begun = listener, asyncio.Event(), asyncio.Event()
        self._error: Exception | None = None
        listener.streams[job] = self

    async def begun(self) -> None:
        """Returns once the job waits for its turn. Raises what it failed with, as RequestError."""
        await self._has_begun.wait()
        if self._error is not None:
            raise self._error

    def begin(self) -> None:
        """Has `begun` return."""
        self._has_begun.set()

    async def wait(self) -> None:
        """Returns once there is more than at its last return. Raises what the job failed with."""
        await self._has_news.wait()
        self._has_news.clear()
        if self._error is not None:
            raise self._error

    def take(self, event: Event) -> None:
        """Takes what is new of one of the texts. The request itself may be ahead of its events."""
        heard, text = self.heard[event.index], event.request.outputs[event.index]
        if heard.finish_reason is not None:  # it was aborted meanwhile
            return
        if event.token is not None:
            heard.token_ids.append(event.token)
        heard.text += event.text
        heard.logprobs += text.logprobs[len(heard.logprobs) : len(heard.token_ids)]
        if event.finish_reason is not None:
            heard.finish_reason, heard.stop_reason = event.finish_reason, text.stop_reason
        if event.finish_reason == "error":  # of the whole request; texts that had not begun have no event
            self._end("error")
        self._has_news.set()

    def fail(self, error: Exception) -> None:
        """Has `wait` raise an error."""
        self._error = error
        self._has_begun.set()
        self._has_news.set()

    def abort(self) -> None:
        """Ends the texts where they are. Any thread may call this."""
        self._listener.loop.call_soon_threadsafe(self._abort)

    def close(self) -> None:
        """Lets events that are still on their way go nowhere."""
        self._listener.streams.pop(self.job, None)

    def _abort(self) -> None:
        self._end("cancelled")
        self._has_news.set()

    def _end(self, reason: str) -> None:
        for one in self.heard:
            one.finish_reason = one.finish_reason or reason
