"""How a server ends: first it takes no new requests, then those that run end or are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

STOP_SECONDS = 2.0  # for clients to hear of the end of what runs
LOOK_SECONDS = 0.05


class Open(Protocol):
    """The requests that are computed or wait."""

    @property
    def num_open(self) -> int:
        """Their number."""

    def end_all(self, reason: str) -> None:
        """Ends them, so that each client is told the reason."""


class Ends:
    """The state of a server that may be ending. All but `drain` and `stop` is called in its event loop."""

    def __init__(self) -> None:
        self.is_draining = False
        self.was_cut = False  # requests were ended before they had come to their ends
        self._stops = asyncio.Event()
        self._begins = asyncio.Event()

    def drain(self) -> None:
        """Takes no new requests from now on; the server ends when those that run have ended."""
        self.is_draining = True
        self._begins.set()

    def stop(self) -> None:
        """Ends those that run, too."""
        self.drain()
        self._stops.set()

    async def begun(self) -> None:
        """Returns once no new requests are taken."""
        await self._begins.wait()

    async def wait(self, served: Open, seconds: float, num_answers: Callable[[], int]) -> None:
        """Returns once the server shall end and no request runs, at the latest shortly after `stop`.

        seconds: how long requests may run after `drain`. num_answers: those whose ends clients may still
        have to hear.
        """
        await self._begins.wait()
        if await self._idle(served, num_answers, seconds):
            return
        self.was_cut = served.num_open > 0
        served.end_all("the server ends, and this was not finished; ask again later")
        self._stops.clear()
        await self._idle(served, num_answers, STOP_SECONDS)

    async def _idle(self, served: Open, num_answers: Callable[[], int], seconds: float) -> bool:
        """Waits until nothing runs; False after some seconds, or at `stop`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while served.num_open or num_answers():
            if self._stops.is_set() or loop.time() >= end:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True
