"""Cuts a text at its markers, in a time that does not grow with how many markers there are.

Knows which of several that overlap counts, and what they swallow; knows no vocabulary.
"""

from __future__ import annotations

import bisect
import heapq
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_MARKER_BYTES = 512  # longer texts are not looked for: no tokenizer has any
_ASCII_SPACES = " \t\n\v\f\r"
_FREE, _TAKEN, _SWALLOWED = 0, 1, 2  # what a character of a text is


class Marker(NamedTuple):
    """A token that is found in the text as a whole."""

    text: str
    token: int
    is_special: bool  # found only on request
    strips_left: bool = False  # swallows the spaces before it
    strips_right: bool = False  # swallows the spaces that follow it


class MarkerCutter:
    """Finds markers as if one was looked for after the other, the longest first, in what is left of a text.

    Of equally long ones those that come first in the list are; of equal texts only the first is found.
    """

    def __init__(self, markers: Sequence[Marker]) -> None:
        by_length = sorted(markers, key=lambda marker: -len(marker.text.encode()))
        found: dict[str, Marker] = {}
        for marker in by_length:
            if marker.text and len(marker.text.encode()) <= MAX_MARKER_BYTES:
                found.setdefault(marker.text, marker)
        self._markers = list(found.values())
        self._order = {text: place for place, text in enumerate(found)}
        self._texts = sorted(found)
        self._shorter = _prefixes(self._texts)
        self._longest = max(map(len, self._texts), default=0)
        firsts = "".join(map(re.escape, sorted({text[0] for text in self._texts})))
        self._first = re.compile(f"[{firsts}]") if firsts else None

    def cut(self, text: str) -> list[str | int]:
        """The text cut at its markers: runs of text, never two in a row and none empty, and token ids."""
        if self._first is None:
            return [text] if text else []
        state = bytearray(len(text))
        found: dict[int, Marker] = {}
        waiting = [
            (self._order[marker], match.start(), marker)
            for match in self._first.finditer(text)
            if (marker := self._longest_at(text, match.start()))
        ]
        heapq.heapify(waiting)
        while waiting:
            order = waiting[0][0]
            placed = list(self._place_all(waiting, order, state))
            found |= dict.fromkeys(placed, self._markers[order])
            self._swallow(text, state, placed, self._markers[order])
        return list(_parts(text, state, found))

    def _longest_at(self, text: str, start: int) -> str:
        """The longest marker that stands there, or an empty text."""
        place = bisect.bisect_right(self._texts, text[start : start + self._longest]) - 1
        while place >= 0 and not text.startswith(self._texts[place], start):
            place = self._shorter[place]
        return self._texts[place] if place >= 0 else ""

    def _place_all(self, waiting: list[tuple[int, int, str]], order: int, state: bytearray) -> Iterator[int]:
        """Yields the places of a marker from left to right; where it does not fit a shorter one may."""
        while waiting and waiting[0][0] == order:
            _, start, marker = heapq.heappop(waiting)
            end = start + len(marker)
            held = state[start:end]
            num_free = len(held) - len(held.lstrip(bytes([_FREE])))
            if num_free == len(held):
                state[start:end] = bytes([_TAKEN]) * num_free
                yield start
                continue
            shorter = self._shorter[bisect.bisect_left(self._texts, marker)]
            while num_free and shorter >= 0 and len(self._texts[shorter]) > num_free:
                shorter = self._shorter[shorter]
            if num_free and shorter >= 0:
                text = self._texts[shorter]
                heapq.heappush(waiting, (self._order[text], start, text))

    @staticmethod
    def _swallow(text: str, state: bytearray, starts: list[int], marker: Marker) -> None:
        """Takes away the spaces beside those that were placed."""
        for start in starts:
            place = start + len(marker.text)
            while marker.strips_right and _is_free_space(text, state, place):
                state[place] = _SWALLOWED
                place += 1
            place = start - 1
            while marker.strips_left and place >= 0 and _is_free_space(text, state, place):
                state[place] = _SWALLOWED
                place -= 1


def _is_free_space(text: str, state: bytearray, place: int) -> bool:
    return place < len(text) and state[place] == _FREE and text[place] in _ASCII_SPACES


def _prefixes(texts: Sequence[str]) -> list[int]:
    """Returns for each of sorted texts the index of the longest other that it begins with; -1 for none."""
    shorter: list[int] = []
    open_ones: list[int] = []
    for place, text in enumerate(texts):
        while open_ones and not text.startswith(texts[open_ones[-1]]):
            open_ones.pop()
        shorter.append(open_ones[-1] if open_ones else -1)
        open_ones.append(place)
    return shorter


def _parts(text: str, state: bytearray, found: dict[int, Marker]) -> Iterator[str | int]:
    end = 0
    for start in sorted(found):
        yield from _run(text, state, end, start)
        yield found[start].token
        end = start + len(found[start].text)
    yield from _run(text, state, end, len(text))


def _run(text: str, state: bytearray, start: int, end: int) -> Iterator[str]:
    """The characters between two markers, less those that were swallowed at its ends."""
    while start < end and state[start] == _SWALLOWED:
        start += 1
    while start < end and state[end - 1] == _SWALLOWED:
        end -= 1
    if start < end:
        yield text[start:end]
