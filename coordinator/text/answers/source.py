"""The text of an answer as it arrives, for readers written as if all of it were there.

Readers are generators: where they need more text they yield, and are resumed when it has come. Each
character is looked at a bounded number of times, however the text is cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from itertools import permutations
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]

_SPACE = re.compile(r"\s*")


class MalformedError(Exception):
    """The text is no tool call, or none any longer."""


class Marks:
    """Texts to look for. None may lie within another, so that a cut never changes which is found."""

    def __init__(self, *texts: str) -> None:
        self.texts = tuple(dict.fromkeys(texts))
        assert all(self.texts) and not any(one in other for one, other in permutations(self.texts, 2)), texts
        self.longest = max(map(len, self.texts), default=0)
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        self._beginnings = {text[:size] for text in self.texts for size in range(1, len(text))}

    def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
        """Returns the first mark that lies between the positions start and end."""
        return self._pattern.search(text, start, end)

    def open_end(self, text: str, start: int) -> int:
        """The number of characters at the text's end, behind start, that may be the beginning of a mark."""
        most = min(self.longest - 1, len(text) - start)
        return next((size for size in range(most, 0, -1) if text[-size:] in self._beginnings), 0)


class Source:
    """Holds what has arrived and is not taken yet, and what was taken but may have to be given back."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._held: list[str] | None = None

    def feed(self, text: str) -> None:
        """Adds the text that has arrived."""
        self._text, self._at = self._text[self._at :] + text, 0

    def end(self) -> None:
        """Says that no more text will come."""
        self._ended = True

    @property
    def exhausted(self) -> bool:
        """Tells if all text has been taken and no more will come."""
        return self._ended and self._at == len(self._text)

    def hold(self, text: str = "") -> None:
        """Begins to keep what is taken, behind the given text."""
        self._held = [text]

    def release(self) -> str:
        """Returns what was taken since hold()."""
        held, self._held = "".join(self._held or ()), None
        return held

    def take(self, count: int) -> str:
        """Takes characters that have arrived."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._held is not None:
            self._held.append(text)
        return text

    def peek(self, count: int = 1) -> Reading[str]:
        """Returns the next characters without taking them; fewer only at the end of the text."""
        while len(self._text) - self._at < count and not self._ended:
            yield
        return self._text[self._at : self._at + count]

    def run(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Takes what has arrived of a run of characters; an empty text where the run is over."""
        yield from self.peek()
        match = pattern.match(self._text, self._at)
        return self.take(match.end() - self._at) if match else ""

    def space(self) -> Reading[str]:
        """Takes all white space that comes next."""
        taken = []
        while part := (yield from self.run(_SPACE)):
            taken.append(part)
        return "".join(taken)

    def token(self, pattern: re.Pattern[str], limit: int) -> Reading[str]:
        """Takes a whole run of characters. Raises MalformedError, taking none, for more than the limit."""
        while True:
            match = pattern.match(self._text, self._at, self._at + limit + 1)
            size = match.end() - self._at if match else 0
            if size > limit:
                raise MalformedError
            if self._at + size < len(self._text) or self._ended:
                return self.take(size)
            yield

    def until(self, marks: Marks) -> Reading[tuple[str, str | None]]:
        """Takes the text that surely stands before a mark, and the mark where one has come.

        Returns ("", None) only at the end of the text.
        """
        while True:
            found = marks.search(self._text, self._at, len(self._text))
            if found:
                return self.take(found.start() - self._at), self.take(len(found.group()))
            open_end = 0 if self._ended else marks.open_end(self._text, self._at)
            size = len(self._text) - self._at - open_end
            if size or self._ended:
                return self.take(size), None
            yield

    def name(self, marks: Marks, limit: int = 256) -> Reading[tuple[str, str]]:
        """Takes a short text and the mark behind it. Raises MalformedError, taking none, without one."""
        while True:
            end = self._at + limit + marks.longest
            found = marks.search(self._text, self._at, end)
            if found:
                return self.take(found.start() - self._at), self.take(len(found.group()))
            if len(self._text) >= end or self._ended:
                raise MalformedError
            yield

    def accept(self, text: str) -> Reading[bool]:
        """Takes the text if it comes next; at the end of all text its beginning is enough."""
        while True:
            pending = self._text[self._at : self._at + len(text)]
            if not text.startswith(pending):
                return False
            if len(pending) == len(text) or self._ended:
                self.take(len(pending))
                return bool(pending)
            yield

    def expect(self, text: str) -> Reading[None]:
        """Takes the text. Raises MalformedError where another comes."""
        if not (yield from self.accept(text)):
            raise MalformedError
