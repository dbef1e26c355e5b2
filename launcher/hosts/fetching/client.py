"""Fetches the blocks of a model that are missing, in several streams, and checks each before it is kept."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.fetching.blocks import BLOCK_BYTES, Block, Strips
from tplaunch.launcher.hosts.fetching.messages import AskBytes, Refused, Reply
from tplaunch.launcher.hosts.fetching.server import digest
from tplaunch.launcher.hosts.fetching.store import Store

# Asks the head, and returns its reply and the frame behind it. One thread at a time calls it.
Ask = Callable[[AskBytes], tuple[Reply, Frame]]
Progress = Callable[[int, int], None]  # bytes that have come, and those that shall
STOPPED = "the fetch was stopped"
MAX_TRIES = 3  # of a block that comes damaged


class FetchError(RuntimeError):
    """The model can't be fetched; the message says why in one sentence."""


def fetch_missing(
    store: Store,
    wanted: Callable[[Store], Sequence[Block]],
    asks: Sequence[Ask],
    on_progress: Progress,
    is_stopped: threading.Event,
) -> int:
    """Completes the model in the store as far as it is wanted; returns how many bytes were fetched.

    wanted: names the blocks once the headers are there. asks: one for each stream, which has a thread of its
    own. on_progress: is called from these threads, by one at a time. is_stopped: is set when a stream fails,
    or by who wants the fetch to end, and ends all streams. Raises FetchError, StoreError, and what
    the asks raise; what has come by then is kept.
    """
    if not store.has_headers:
        sizes = [part.header_bytes for part in store.facts.parts]
        store.begin([_fetch_header(asks[0], part, size) for part, size in enumerate(sizes)])
    store.open_tensors()
    missing = store.missing(wanted(store))
    store.check_space(missing)
    _Fetching(store, missing, on_progress, is_stopped).run(asks)
    return sum(store.strips(block).num_bytes for block in missing)


def _fetch_header(ask: Ask, part: int, num_bytes: int) -> bytes:
    places = range(0, num_bytes, BLOCK_BYTES)
    pieces = [(start, min(BLOCK_BYTES, num_bytes - start)) for start in places]
    return b"".join(
        _checked(ask, Strips(part, start, size, size, 1), f"the header of file {part + 1}")[0]
        for start, size in pieces
    )


def _checked(ask: Ask, strips: Strips, what: str) -> tuple[Frame, bytes]:
    """Returns the bytes as the head has them, and their digest; what does not fit it is asked for again."""
    for _ in range(MAX_TRIES):
        reply, data = ask(AskBytes(strips))
        if isinstance(reply, Refused):
            raise FetchError(f"the head refused {what}: {reply.reason}")
        if len(data) == strips.num_bytes and digest(data) == reply.digest:
            return data, reply.digest
    raise FetchError(f"{what} came damaged {MAX_TRIES} times: is the link or a machine's memory faulty?")


class _Fetching:
    """One run's blocks, which its streams share."""

    def __init__(
        self, store: Store, missing: Sequence[Block], on_progress: Progress, is_stopped: threading.Event
    ) -> None:
        self._store, self._on_progress = store, on_progress
        self._waiting = deque(missing)
        self._total = sum(store.strips(block).num_bytes for block in missing)
        self._done = 0
        self._failure: Exception | None = None  # the first
        self._lock = threading.Lock()
        self._is_stopped = is_stopped

    def run(self, asks: Sequence[Ask]) -> None:
        if self._waiting:
            with ThreadPoolExecutor(len(asks), "fetch") as pool:
                streams = [pool.submit(self._stream, ask) for ask in asks]
                try:
                    wait(streams)
                except BaseException:  # a signal
                    self._is_stopped.set()
                    raise
        if self._failure is not None:
            raise self._failure
        if self._done < self._total:
            raise FetchError(STOPPED)

    def _stream(self, ask: Ask) -> None:
        try:
            while not self._is_stopped.is_set() and (block := self._next()) is not None:
                self._fetch(ask, block)
        except Exception as error:
            with self._lock:
                self._failure = self._failure or error
            self._is_stopped.set()

    def _next(self) -> Block | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _fetch(self, ask: Ask, block: Block) -> None:
        name = self._store.tensors[block.tensor].name
        data, found = _checked(ask, self._store.strips(block), f"a part of the tensor {name!r}")
        self._store.write(block, data, found)
        with self._lock:
            self._done += len(data)
            self._on_progress(self._done, self._total)
