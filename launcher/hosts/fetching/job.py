"""A fetch that goes on in a thread, while the host that needs it beats and listens to its head."""

from __future__ import annotations

import functools
import threading

import numpy as np

from tplaunch.coordinator.wire import Int32s
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.fetching.client import FetchError
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.obtain import fetch_model, models_cache
from tplaunch.launcher.hosts.fetching.serving import dialled_streams
from tplaunch.launcher.hosts.fetching.store import StoreError
from tplaunch.launcher.lines import say
from tplaunch.worker.faults import fault_sentence

STOP_SECONDS = 2.0


class FetchJob:
    """Fetches what a head wishes, from `start` to `close`. `files` are the model's, once it is done."""

    def __init__(
        self, facts: ModelFacts, server: Address, secret: bytes | None, seconds: float, most_bytes: int
    ) -> None:
        """server: the address that serves the model; seconds: how long it may be silent; most_bytes: of all
        models in the cache.
        """
        self._facts, self._most_bytes = facts, most_bytes
        self._open = functools.partial(dialled_streams, server, secret, seconds)
        self._wished: list[Int32s] = []
        self._is_stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.files: tuple[str, ...] = ()
        self.progress = (0, 0)  # bytes that have come, of those that shall
        self.fault = ""

    def wish(self, blocks: Int32s) -> None:
        """Adds to what is fetched once it starts."""
        self._wished.append(blocks)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._fetch, name="tplaunch fetch", daemon=True)
        self._thread.start()

    @property
    def is_started(self) -> bool:
        return self._thread is not None

    @property
    def is_done(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def close(self) -> None:
        """Stops the fetch; what has come is kept. One that reads old blocks again may go on for a while."""
        self._is_stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _fetch(self) -> None:
        try:
            wanted = np.concatenate(self._wished)
            parts = fetch_model(
                self._facts,
                wanted,
                models_cache(),
                self._open,
                say,
                self._is_stopped,
                self._note,
                self._most_bytes,
            )
            self.files = tuple(part.path for part in parts)
        except (FetchError, StoreError, ValueError) as error:
            self.fault = str(error)
        except Exception as error:
            self.fault = fault_sentence(error) or repr(error)

    def _note(self, done: int, total: int) -> None:
        self.progress = done, total
