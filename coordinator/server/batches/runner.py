"""Runs the batches of a server one after the other, behind the requests of clients who wait.

It asks the server's own application, in this process, so that a body means what it means to a client. What
is done is on disk at once: a server that ends in any way goes on with its batches at its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from tplaunch.coordinator.batches.batch_lines import BatchLine, batch_keys, batch_lines
from tplaunch.coordinator.batches.batch_results import Results, has_failed, open_results
from tplaunch.coordinator.batches.batch_run import TOO_MANY, Answer, BatchRun
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.server.batches.folder import Folder, FullError
from tplaunch.coordinator.server.batches.record import Batch, read_batches
from tplaunch.coordinator.server.ends import Ends
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.serving.failures import RunError

logger = logging.getLogger(__name__)
FREE_SHARE = 4  # one seat of so many stays free of batches, and at least one, where there are two
LOOK_SECONDS = 0.02  # how often is looked whether somebody still waits
RETRY_SECONDS = 5.0  # until a batch goes on, after the model could not
REASONS = {"expired": "this was not answered before the batch's end", "cancelled": "the batch was cancelled"}


class Batches:
    """The batches. All is called in one event loop; `close` leaves those that run to the next start."""

    def __init__(self, folder: Folder, service: Service, answer: Answer, ends: Ends) -> None:
        self.folder = folder
        self.all = read_batches(folder.records)
        self._service, self._asked, self._ends = service, answer, ends
        folder.drop_strays(
            each for one in self.all.values() if not one.has_ended for each in (one.output_id, one.error_id)
        )
        seats = service.opened.driver.session.limits.max_sequences
        self._num_together = max(1, seats - max(1, seats // FREE_SHARE))
        self._has_news = asyncio.Event()
        self._running: tuple[Batch, asyncio.Task[None]] | None = None
        self._tasks = [asyncio.ensure_future(self._run_all()), asyncio.ensure_future(self._end_early())]

    def add(self, batch: Batch) -> None:
        """Takes a batch, whose turn comes after all others."""
        batch.become("validating")
        batch.write(self.folder.records)
        self.all[batch.id] = batch
        self._has_news.set()

    def forget(self, batch: Batch) -> None:
        """Keeps a batch no longer; its files stay."""
        del self.all[batch.id]
        (self.folder.records / f"{batch.id}.json").unlink(missing_ok=True)

    def cancel(self, batch: Batch) -> None:
        """Ends a batch that has not ended; what was answered stays."""
        self._become(batch, "cancelling")
        if self._running is not None and self._running[0] is batch:
            self._running[1].cancel()
        self._has_news.set()

    async def close(self) -> None:
        """Ends the work where it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end_early(self) -> None:
        """Batches end as soon as the server begins to: clients who wait have the rest of the time."""
        await self._ends.begun()
        self._tasks[0].cancel()

    async def _run_all(self) -> None:
        while True:
            self._has_news.clear()
            batch = self._next()
            if batch is None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._has_news.wait(), self._until_next_end())
                continue
            try:
                await self._run(batch)
            except RunError as error:
                logger.warning("batch %s waits: %s", batch.id, error)
                await asyncio.sleep(RETRY_SECONDS)
                while not self._service.opened.driver.health().is_ok:
                    await asyncio.sleep(RETRY_SECONDS)
            except InputError as error:
                self._fail(batch, "invalid_file", str(error))
            except FullError as error:
                self._fail(batch, "files_full", str(error))
            except Exception:
                logger.exception("batch %s failed", batch.id)
                self._fail(batch, "server_error", "the server failed at this batch; its log has more")

    def _next(self) -> Batch | None:
        """Returns the oldest batch that has not ended; one of another model is only ended."""
        now = time.time()
        for batch in self.all.values():
            is_over = batch.status == "cancelling" or batch.expires_at <= now
            if not batch.has_ended and (is_over or batch.model == self._service.name):
                return batch
        return None

    def _until_next_end(self) -> float | None:
        ends = [batch.expires_at for batch in self.all.values() if not batch.has_ended]
        return max(0.0, min(ends) - time.time()) + LOOK_SECONDS if ends else None

    async def _run(self, batch: Batch) -> None:
        """Answers a batch until it ends, is cancelled or expires. Raises RunError, InputError, FullError."""
        if batch.status == "cancelling":
            await self._finish(batch, "cancelled")
            return
        task = asyncio.ensure_future(self._answer_all(batch))
        self._running = batch, task
        try:
            left = None if batch.status == "finalizing" else max(0.0, batch.expires_at - time.time())
            await asyncio.wait([task], timeout=left)
            is_late = not task.done()
        finally:
            self._running = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()
            await self._finish(batch, "completed")
        elif is_late:
            await self._finish(batch, "expired")
        # Else it was cancelled, and its turn comes at once.

    async def _answer_all(self, batch: Batch) -> None:
        path = self.folder.path_of(batch.input_file_id)
        if batch.status == "validating":
            try:
                batch.total = len(await asyncio.to_thread(batch_keys, path))
            except InputError as error:
                raise InputError(str(error).replace(str(path), batch.input_file_id)) from error
            self._become(batch, "in_progress")
        async with self._results(batch) as results:
            run = BatchRun(self._behind, results)
            await run.run(_lines(path, batch.endpoint), self._num_together)

    @contextlib.asynccontextmanager
    async def _results(self, batch: Batch) -> AsyncIterator[_Results]:
        """Yields the results so far, which are read in another thread, as they may be many."""
        opening = asyncio.ensure_future(asyncio.to_thread(_Results, self.folder, batch))
        try:
            results = await asyncio.shield(opening)
        except asyncio.CancelledError:
            (await opening).close()
            raise
        try:
            yield results
        finally:  # in a thread, since the disk may be slow
            await asyncio.to_thread(results.close)

    async def _behind(self, url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Asks when nobody waits for a seat, and once more where the queue was full."""
        while True:
            while self._service.opened.driver.stats().num_waiting:
                await asyncio.sleep(LOOK_SECONDS)
            status, found = await self._asked(url, body)
            if status != TOO_MANY or not self._service.num_open:
                return status, found
            await asyncio.sleep(LOOK_SECONDS)

    async def _finish(self, batch: Batch, status: str) -> None:
        """Lets clients see what was answered, and why the rest was not."""
        if status == "completed":
            self._become(batch, "finalizing")
        elif batch.total:
            with contextlib.suppress(FullError, InputError):
                async with self._results(batch) as results:
                    rest = _unanswered(self.folder.path_of(batch.input_file_id), status)
                    await BatchRun(self._asked, results).run(rest, 1)
        self._end(batch, status)

    def _fail(self, batch: Batch, code: str, message: str) -> None:
        batch.errors = [{"code": code, "message": message, "param": None, "line": None}]
        self._end(batch, "failed")

    def _end(self, batch: Batch, status: str) -> None:
        batch.output_file_id = self._shown(batch, batch.output_id, "output")
        batch.error_file_id = self._shown(batch, batch.error_id, "error")
        self._become(batch, status)

    def _shown(self, batch: Batch, file_id: str, name: str) -> str | None:
        path = self.folder.path_of(file_id)
        if not path.exists() or not path.stat().st_size:
            self.folder.drop(file_id)
            return None
        return self.folder.keep(file_id, f"{batch.id}_{name}.jsonl", "batch_output", batch.output_seconds).id

    def _become(self, batch: Batch, status: str) -> None:
        batch.become(status)
        try:
            batch.write(self.folder.records)
        except OSError as error:  # after a restart it is as it was before
            logger.warning("batch %s is %s, which can't be written: %s", batch.id, status, error.strerror)


class _Results:
    """The two files of a batch: answers in one, everything else in the other. It counts them in the batch."""

    def __init__(self, folder: Folder, batch: Batch) -> None:
        """Raises InputError where the files are not as they were left."""
        self._folder, self._batch = folder, batch
        with contextlib.ExitStack() as stack:
            self._output, self._errors = (
                stack.enter_context(self._opened(file_id)) for file_id in (batch.output_id, batch.error_id)
            )
            self._stack = stack.pop_all()
        self.done: Set[str | int] = self._output.done | self._errors.done
        batch.completed, batch.failed = len(self._output.done), len(self._errors.done)

    def close(self) -> None:
        """Closes the files, with all that was written on the disk."""
        self._stack.close()

    def add(self, line: BatchLine, result: dict[str, Any]) -> None:
        """Takes a result. Raises FullError and InputError."""
        failed = has_failed(result)
        (self._errors if failed else self._output).add(line, result)
        self._batch.failed += failed
        self._batch.completed += not failed

    def _opened(self, file_id: str) -> contextlib.AbstractContextManager[Results]:
        path: Path = self._folder.path_of(file_id)
        return open_results(path, file_id, self._folder.take)


def _lines(path: Path, endpoint: str) -> Iterator[BatchLine]:
    for line in batch_lines(path):
        if line.fault is None and line.url != endpoint:
            yield replace(line, fault=f"url is {endpoint}, which is the batch's, not {line.url}")
        else:
            yield line


def _unanswered(path: Path, status: str) -> Iterator[BatchLine]:
    for line in batch_lines(path):
        yield replace(line, fault=REASONS[status], code=f"batch_{status}")
