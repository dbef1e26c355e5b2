"""A grammar that holds wherever a text begins it by itself: free text, and calls of tools within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tplaunch.coordinator.serving.grammar.compiler import Grammar
from tplaunch.coordinator.serving.grammar.followed import Followed
from tplaunch.coordinator.serving.grammar.mask import GrammarMask
from tplaunch.coordinator.serving.grammar.overhangs import Ids, Overhangs
from tplaunch.coordinator.serving.grammar.vocabulary import Words
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError
from tplaunch.coordinator.serving.sampling.pool import Bools

NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Marker:
    """A text by which the grammar begins. Its last `size` bytes are the first ones of the grammar's."""

    text: str
    size: int


@dataclass(frozen=True)
class OnceBegun:
    """A Constraint: any text, in which the grammar holds behind its markers until it may end.

    before: what stands before the text. bare: characters by which the grammar begins, too, where nothing but
    white space stands before them since the start or since it ended.
    """

    grammar: Grammar
    words: Words = field(repr=False)
    markers: Sequence[Marker]
    bare: str = ""
    before: str = ""
    needs_end = False

    def __post_init__(self) -> None:
        self.overhangs()  # here, in whatever thread plans the request, and not where a step waits

    def overhangs(self) -> Overhangs:
        """The tokens that may begin the grammar and bring more."""
        starts = tuple(character.encode() for character in self.bare)
        return self.words.overhangs([marker.text for marker in self.markers], starts)

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> _Mask:
        """See Constraint."""
        return _Mask(self, vocabulary_size)


class _Mask:
    """Tells free text from the grammar's, and rules out tokens that would begin it and leave it at once."""

    def __init__(self, wanted: OnceBegun, vocabulary_size: int) -> None:
        self._wanted, self._size = wanted, vocabulary_size
        self._words = wanted.words
        self._mask = wanted.grammar.start(vocabulary_size, NONE)
        self._overhangs = wanted.overhangs()
        self._bare = tuple(character.encode() for character in wanted.bare)
        self._most = max((len(marker.text.encode()) for marker in wanted.markers), default=1) - 1
        self._possible: dict[bytes, Bools] = {}  # what may come behind a start of the grammar
        self._followed = Followed()
        self._restart()

    def _restart(self) -> None:
        self._followed.clear()
        self._inside: list[int] | None = None  # the grammar's text, where it has begun and may not end yet
        self._tail = self._wanted.before.encode()
        self._is_bare = bool(self._bare)  # it may begin without a marker

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        """See TokenMask."""
        self._follow(generated)
        if self._inside is not None:
            return self._mask.allowed(self._inside)
        table: Bools | None = None
        for tokens, possible in self._doubtful():
            table = np.ones(self._size, np.bool_) if table is None else table
            table[tokens] &= possible[tokens]
        return table

    def _doubtful(self) -> list[tuple[Ids, Bools]]:
        """The tokens that might begin the grammar and go on, each with what it allows there."""
        found: list[tuple[Ids, Bools]] = []
        if self._overhangs.within.size:
            found.append((self._overhangs.within, np.zeros(self._size, np.bool_)))
        if self._is_bare and self._overhangs.bare.size:
            found.append((self._overhangs.bare, self._behind(b"")))
        for marker in self._wanted.markers:
            shown = marker.text.encode()
            for length in range(len(shown)):
                tokens = self._overhangs.behind(marker.text, len(shown) - length)
                if tokens is not None and self._tail.endswith(shown[:length]):
                    own = length - (len(shown) - marker.size)  # bytes of the grammar's that are there
                    possible = self._behind(shown[length - own : length]) if own >= 0 else None
                    found.append((tokens, np.zeros(self._size, np.bool_) if possible is None else possible))
        return found

    def _behind(self, start: bytes) -> Bools:
        if start not in self._possible:
            mask: GrammarMask = self._wanted.grammar.start(self._size, NONE)
            try:
                self._possible[start] = mask.allowed(self._words.spelled(start.decode("utf-8", "replace")))
            except ConstraintError:
                self._possible[start] = np.zeros(self._size, np.bool_)
        return self._possible[start]

    def _follow(self, generated: Sequence[int]) -> None:
        if not self._followed.goes_on(generated):
            self._restart()
        taken = self._followed.tokens
        while len(taken) < len(generated):
            taken.append(int(generated[len(taken)]))
            self._take(taken[-1])

    def _take(self, token: int) -> None:
        if self._inside is None:
            self._inside = self._begun(token)
            return
        self._inside.append(token)
        if self._mask.may_end(self._inside):
            self._inside, self._tail, self._is_bare = None, b"", bool(self._bare)

    def _begun(self, token: int) -> list[int] | None:
        """The grammar's text up to this token, where the token begins it."""
        shown = self._words.tokens[token] if token < len(self._words.tokens) else b""
        if self._is_bare and shown.startswith(self._bare):
            return [token]
        self._is_bare = self._is_bare and not shown.strip()
        text, length = self._tail + shown, len(self._tail)
        ends = [(text.find(marker.text.encode()), marker) for marker in self._wanted.markers]
        place, marker = min(((at, each) for at, each in ends if at >= 0), default=(-1, None), key=_first)
        self._tail = text[max(0, len(text) - self._most) :] if self._most else b""
        if marker is None:
            return None
        end = place + len(marker.text.encode())
        if end == len(text):
            return self._words.spelled(text[end - marker.size :].decode("utf-8", "replace"))
        return [*self._words.spelled(text[end - marker.size : length].decode("utf-8", "replace")), token]


def _first(found: tuple[int, Marker | None]) -> int:
    return found[0]
