"""Threads in which requests are prepared, in lanes: what may take seconds waits for its like only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, TypeVar

T = TypeVar("T")
SHORT_TEXT = 1 << 12  # characters whose tokens are found at once, in the event loop
FEW_ENTRIES = 1 << 10  # of an answer, such as log probabilities, that are written in the event loop
LONG_TEXT = 1 << 16  # characters, of a text or of a conversation with all that belongs to it


class Lane(Enum):
    """How long something may take."""

    QUICK = auto()  # milliseconds
    LONG = auto()  # seconds: long texts, and templates of clients
    GRAMMAR = auto()  # seconds: grammars that are compiled
    ANSWER = auto()  # seconds: answers of many log probabilities, or of many texts


NUM_THREADS = {Lane.QUICK: 4, Lane.LONG: 2, Lane.GRAMMAR: 4, Lane.ANSWER: 2}


class Lanes:
    """The threads of a server. `close` lets what runs come to its end, and waits for nothing."""

    def __init__(self) -> None:
        self._threads = {
            lane: ThreadPoolExecutor(NUM_THREADS[lane], f"tplaunch {lane.name.lower()}") for lane in Lane
        }

    async def run(self, lane: Lane, make: Callable[[], T]) -> T:
        """Returns what a function makes, in one of a lane's threads. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads[lane], make)

    def close(self) -> None:
        """Takes nothing more."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


def lane_of(*values: Any) -> Lane:
    """Returns the lane for rendering what a client has sent, by its length."""
    return Lane.LONG if _is_long(values) else Lane.QUICK


def lane_of_texts(num_characters: int) -> Lane | None:
    """Returns the lane for finding the tokens of so much text; None for the event loop itself."""
    if num_characters <= SHORT_TEXT:
        return None
    return Lane.QUICK if num_characters <= LONG_TEXT else Lane.LONG


def _is_long(values: Any) -> bool:
    """Tells whether texts and their company are long; no more is looked at than that takes."""
    rest, left = [values], LONG_TEXT
    while rest and left > 0:
        value = rest.pop()
        left -= 1
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, Mapping):
            left -= len(value)
            rest += (*value.keys(), *value.values()) if left > 0 else ()
        elif isinstance(value, Sequence):
            left -= len(value)
            rest += value if left > 0 else ()
    return left <= 0
