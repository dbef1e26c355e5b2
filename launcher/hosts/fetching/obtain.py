"""Gets a joining host the model's files: its own by hash, or the cache's, completed from the head."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.coordinator.wire import Int32s
from tplaunch.launcher.hosts.fetching.cache import USUAL_BYTES
from tplaunch.launcher.hosts.fetching.client import Ask, FetchError, fetch_missing
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.store import Store, StoreError
from tplaunch.launcher.hosts.fetching.wanted import from_integers
from tplaunch.worker.folders import user_folder

NUM_STREAMS = 4
LOCK_GLANCE_SECONDS = 0.5
SAY_SECONDS = 5.0  # between lines that say how far a fetch is
Streams = Callable[[threading.Event], AbstractContextManager[Sequence[Ask]]]


def models_cache() -> Path:
    """Returns the folder of fetched models. Raises StoreError for a user without a home folder."""
    root = user_folder("XDG_CACHE_HOME", ".cache")
    if root is None:
        raise StoreError(
            "there is no home folder for a fetched model: set XDG_CACHE_HOME, or give --model-dir"
        )
    return root / "tplaunch" / "models"


def fetch_model(
    facts: ModelFacts,
    wanted: Int32s,
    cache: Path,
    open_streams: Streams,
    say: Callable[[str], None],
    is_stopped: threading.Event,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    most_bytes: int = USUAL_BYTES,
) -> tuple[FilePart, ...]:
    """Returns the model's files in the cache, where what is wanted of them was fetched if it was missing.

    wanted: blocks as integers. is_stopped: ends the fetch from another thread. on_progress: bytes that have
    come, and those that shall. most_bytes: of all models in the cache. Raises FetchError, StoreError
    and ValueError for a wish that fits no tensor; what had come by then is kept.
    """
    with _locked(Store(cache, facts, most_bytes), say, is_stopped) as store, open_streams(is_stopped) as asks:
        progress = Progress(say, on_progress)
        num_bytes = fetch_missing(
            store, lambda there: from_integers(wanted, there.grids), asks, progress, is_stopped
        )
        if num_bytes:
            say(f"fetched {progress.rate(num_bytes)} of the model from the head")
        parts = zip(store.paths, facts.parts, strict=True)
        return tuple(FilePart(str(path), part.header_bytes) for path, part in parts)


@contextlib.contextmanager
def _locked(store: Store, say: Callable[[str], None], is_stopped: threading.Event) -> Iterator[Store]:
    """Waits while another process of this machine fetches the same model."""
    has_said = False
    while True:
        try:
            store.__enter__()
            break
        except BlockingIOError:
            if not has_said:
                say(f"waiting for another process that fetches the same model into {store.folder}")
            has_said = True
        if is_stopped.wait(LOCK_GLANCE_SECONDS):
            raise FetchError("the fetch was stopped")
    with contextlib.ExitStack() as stack:
        stack.push(store)
        yield store


class Progress:
    """Says every few seconds how far a fetch is, and at which speed."""

    def __init__(self, say: Callable[[str], None], then: Callable[[int, int], None]) -> None:
        self._say, self._then = say, then
        self._begin = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self._then(done, total)
        now = time.monotonic()
        if now - self._said >= SAY_SECONDS and done < total:
            self._said = now
            self._say(f"fetching the model: {self.rate(done)}, of {size_text(total)}")

    def rate(self, num_bytes: int) -> str:
        """Returns the bytes and their speed since the beginning."""
        seconds = max(time.monotonic() - self._begin, 1e-3)
        return f"{size_text(num_bytes)} at {num_bytes / seconds / 1e6:.0f} MB/s"


def size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
