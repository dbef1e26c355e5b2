"""Shows text as it comes: on a terminal broken between words and without harm, elsewhere exactly as it is."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable

USUAL_COLUMNS = 80
TAB_COLUMNS = 8
_FENCE = re.compile(r"`{3,}[^`]*$|~{3,}")  # as CommonMark has it
_PIECES = re.compile(r"\n|[ \t]+|[^ \t\n]+")  # a line's end, blanks, a word


class Screen:
    """Standard output: `show` takes pieces of text, `end` shows what was held back and ends the line."""

    def __init__(self) -> None:
        self._wrapper = Wrapper(terminal_columns) if sys.stdout.isatty() else None

    def show(self, text: str) -> None:
        print(text if self._wrapper is None else self._wrapper.push(text), end="", flush=True)

    def echo(self, text: str) -> None:
        """Shows on standard error what the text that comes continues; on a terminal only."""
        if self._wrapper is not None and sys.stderr.isatty():
            sys.stdout.flush()
            print(self._wrapper.push(text) + self._wrapper.finish(), end="", file=sys.stderr, flush=True)

    def break_off(self) -> None:
        """Has what is said next begin a line of its own, on a terminal."""
        if self._wrapper is not None:
            self.end()

    def end(self) -> None:
        print("" if self._wrapper is None else self._wrapper.finish(), flush=True)


def terminal_columns() -> int:
    """The columns of the terminal at standard output, now; 80 where it does not know."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_COLUMNS
    except (OSError, ValueError):
        return USUAL_COLUMNS


class Wrapper:
    """Is fed a text in pieces, and says what a terminal is to be sent, with lines broken between words.

    A word is held back until it is whole. Words that are longer than a line, and lines between ``` or ~~~,
    stay as they are. Control characters are shown as signs: they could move the cursor or worse.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        """columns: asked before every word, as windows change."""
        self._columns = columns
        self._column = 0
        self._blanks, self._word = "", ""  # held back
        self._is_code = False
        self._begins_line = True  # no word of the line has been shown yet

    def push(self, text: str) -> str:
        """Takes a piece of the text and returns the characters that may be shown now."""
        return "".join(self._take(piece) for piece in _PIECES.findall(visible(text)))

    def finish(self) -> str:
        """Returns the characters that were held back; the text has ended."""
        return self._end_word() + self._take_blanks()

    def _take(self, piece: str) -> str:
        if piece == "\n":
            shown = self._end_word() + self._take_blanks() + "\n"
            self._column, self._begins_line = 0, True
            return shown
        if piece[0] in " \t":
            shown = self._end_word()
            self._blanks += piece
            return shown + (self._take_blanks() if self._is_code else "")
        shown = ""
        for char in piece:
            if not self._is_code and _width(char) == 2:  # these scripts have no blanks between words
                shown += self._end_word()
                self._word = char
                shown += self._end_word()
            else:
                self._word += char
        if self._is_code and not _may_be_fence(self._word):
            shown += self._end_word()
        return shown

    def _end_word(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        if self._begins_line and _FENCE.match(word):
            self._is_code = not self._is_code
        width = text_width(word)
        blanks, column = self._blanks, self._column
        self._blanks, self._begins_line = "", False
        after = _advanced(column, blanks) + width
        columns = self._columns()
        if self._is_code or after <= columns or not column or width > columns:
            self._column = after % max(1, columns) if after > columns else after
            return blanks + word
        self._column = width
        return "\n" + word

    def _take_blanks(self) -> str:
        blanks, self._blanks = self._blanks, ""
        self._column = _advanced(self._column, blanks)
        return blanks


def visible(text: str) -> str:
    """The text with a sign for each control character but newline and tab; carriage returns go."""
    return "".join(map(_visible, text)) if not text.isprintable() else text


def _visible(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) != "Cc":
        return char
    if char == "\r":
        return ""
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # the sign of this character, such as that of ESC
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"


def text_width(text: str) -> int:
    """Columns that the characters of a word take."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _advanced(column: int, blanks: str) -> int:
    for char in blanks:
        column += TAB_COLUMNS - column % TAB_COLUMNS if char == "\t" else 1
    return column


def _may_be_fence(word: str) -> bool:
    return set(word) <= {"`"} or set(word) <= {"~"}
