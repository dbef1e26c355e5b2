"""Runs a batch: so many requests at a time, each result written as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Protocol

from tplaunch.coordinator.batches.batch_lines import BatchLine, seeded
from tplaunch.coordinator.batches.batch_results import answered, refused
from tplaunch.coordinator.serving.failures import RunError

NUM_AHEAD = 32  # lines; so many bodies are there at a time anyway
TOO_MANY, NOT_RUNNING = 429, 503
# Takes a path and a body; returns the status and the body that the server would answer with.
Answer = Callable[[str, Mapping[str, Any]], Awaitable[tuple[int, Any]]]


class ResultsSink(Protocol):
    """A place for results."""

    @property
    def done(self) -> AbstractSet[str | int]:
        """The keys of the lines whose results are there."""

    def add(self, line: BatchLine, result: dict[str, Any]) -> None:
        """Takes a line's result. Raises InputError where it can't."""


class _Missing:
    """Reads the lines without a result, a few ahead, in another thread: the event loop goes on meanwhile."""

    def __init__(self, lines: Iterator[BatchLine], done: AbstractSet[str | int]) -> None:
        self._lines, self._done = lines, done
        self._ahead: deque[BatchLine] = deque()
        self._reads = asyncio.Lock()

    async def next(self) -> BatchLine | None:
        """Returns the next line; None after the last. Raises InputError where the file can't be read."""
        async with self._reads:
            if not self._ahead:
                self._ahead.extend(await asyncio.to_thread(self._read))
            return self._ahead.popleft() if self._ahead else None

    def _read(self) -> list[BatchLine]:
        return list(islice((line for line in self._lines if line.key not in self._done), NUM_AHEAD))


class BatchRun:
    """The requests that are being answered. All is called in one event loop."""

    def __init__(
        self,
        answer: Answer,
        results: ResultsSink,
        on_result: Callable[[dict[str, Any]], None] = lambda result: None,
        seed: int | None = None,
    ) -> None:
        self._answer, self._results, self._on_result, self._seed = answer, results, on_result, seed
        self._num_running = 0  # of those that were asked, without those that wait for room
        self._has_ended = asyncio.Event()

    async def run(self, lines: Iterator[BatchLine], num_together: int) -> None:
        """Answers all lines that have no result yet. Raises RunError once no more can be computed.

        What was not answered by then has no result, and is asked for again when the batch is gone on with.
        """
        missing = _Missing(lines, self._results.done)
        workers = [asyncio.ensure_future(self._work(missing)) for _ in range(num_together)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, lines: _Missing) -> None:
        while (line := await lines.next()) is not None:
            result = refused(line) if line.fault is not None else await self._asked(line)
            self._results.add(line, result)
            self._on_result(result)

    async def _asked(self, line: BatchLine) -> dict[str, Any]:
        body = seeded(line, self._seed)
        while True:
            self._num_running += 1
            try:
                status, found = await self._answer(line.url, body)
            finally:
                self._num_running -= 1
            if status == NOT_RUNNING:
                raise RunError(_message(found))
            if status != TOO_MANY or not self._num_running:
                self._has_ended.set()
                self._has_ended = asyncio.Event()
                return answered(line, status, found)
            await self._has_ended.wait()  # one with many prompts of its own waits for room


def _message(body: Any) -> str:
    try:
        return str(body["error"]["message"])
    except (KeyError, TypeError):
        return "the model can't go on"
