"""Reads a JSON, Python or Gemma value as it arrives, and writes it as JSON at once.

JSON goes on as it was written, but for raw line ends within strings, which become escapes. Python's literals
(None, True, 'text') and Gemma's (bare keys, <|"|>text<|"|>) are translated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading, Source

MAX_DEPTH = 64
_MAX_SCALAR = 1024
_SCALAR = re.compile(r"[\w.+-]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NO_QUOTE = {quote: re.compile(rf"[^{quote}\\\x00-\x1f]+") for quote in "\"'"}
_GEMMA_QUOTE = Marks('<|"|>')
_GEMMA_KEY = Marks(":")
_JSON_WORDS = {"true": "true", "false": "false", "null": "null"}
_PYTHON_WORDS = {**_JSON_WORDS, "True": "true", "False": "false", "None": "null"}
_PYTHON_ESCAPES = {"a": "\a", "v": "\v", "0": "\0", "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}

Write = Callable[[str], None]


@dataclass(frozen=True)
class ValueStyle:
    """How values are written."""

    words: tuple[str, ...]
    closing: dict[str, str]  # of each bracket
    single_quotes: bool = False
    python_escapes: bool = False
    bare_keys: bool = False  # and strings between <|"|>


JSON = ValueStyle(tuple(_JSON_WORDS), {"{": "}", "[": "]"})
PYTHON = ValueStyle(tuple(_PYTHON_WORDS), {"{": "}", "[": "]", "(": ")"}, True, True)
LENIENT = ValueStyle(tuple(_PYTHON_WORDS), PYTHON.closing, single_quotes=True)
GEMMA = ValueStyle(tuple(_PYTHON_WORDS), {"{": "}", "[": "]"}, bare_keys=True)


def escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def read_value(source: Source, style: ValueStyle, write: Write) -> Reading[None]:
    """Reads one value, from its first character to its last. Raises MalformedError."""
    yield from _ValueReader(source, style, write).value(0)


def read_string(source: Source, style: ValueStyle = JSON) -> Reading[str]:
    """Reads a string and returns what it says. Raises MalformedError for another value."""
    parts: list[str] = []
    if (yield from source.peek()) not in ('"', "'"):
        raise MalformedError
    yield from read_value(source, style, parts.append)
    text: str = json.loads("".join(parts))
    return text


class _ValueReader:
    def __init__(self, source: Source, style: ValueStyle, write: Write) -> None:
        self._source = source
        self._style = style
        self._write = write

    def value(self, depth: int) -> Reading[None]:
        first = yield from self._source.peek()
        if first in self._style.closing:
            if depth == MAX_DEPTH:
                raise MalformedError
            yield from self._items(first, depth + 1)
        elif not (yield from self._string(first)):
            yield from self._scalar()

    def _string(self, first: str) -> Reading[bool]:
        if first == '"' or (first == "'" and self._style.single_quotes):
            yield from self._quoted(self._source.take(1))
        elif first == "<" and self._style.bare_keys:
            yield from self._source.expect(_GEMMA_QUOTE.texts[0])
            yield from self._gemma_string()
        else:
            return False
        return True

    def _items(self, opening: str, depth: int) -> Reading[None]:
        """The items of an object, a list or a tuple; a comma behind the last one is left out."""
        self._source.take(1)
        closing = self._style.closing[opening]
        self._write("{" if opening == "{" else "[")
        comma = ""
        while True:
            space = yield from self._source.space()
            if (yield from self._source.peek()) == closing:
                break
            self._write(comma + space)
            if opening == "{":
                yield from self._key()
            yield from self.value(depth)
            self._write((yield from self._source.space()))
            if (yield from self._source.peek()) == closing:
                break
            yield from self._source.expect(",")
            comma = ","
        self._source.take(1)
        self._write("}" if opening == "{" else "]")

    def _key(self) -> Reading[None]:
        first = yield from self._source.peek()
        if not (yield from self._string(first)):
            if not self._style.bare_keys:
                raise MalformedError
            key, _ = yield from self._source.name(_GEMMA_KEY)
            self._write(f'"{escaped(key)}":')
            yield from self._source.space()
            return
        self._write((yield from self._source.space()))
        yield from self._source.expect(":")
        self._write(":" + (yield from self._source.space()))

    def _quoted(self, quote: str) -> Reading[None]:
        self._write('"')
        plain = _NO_QUOTE[quote]
        while True:
            text = yield from self._source.run(plain)
            if text:
                self._write(text if quote == '"' else escaped(text))
                continue
            character = yield from self._source.peek()
            if not character:
                raise MalformedError
            if character == "\\":
                yield from self._escape()
                continue
            self._source.take(1)
            if character == quote:
                break
            self._write(escaped(character))
        self._write('"')

    def _escape(self) -> Reading[None]:
        pair = yield from self._source.peek(2)
        if len(pair) < 2:
            raise MalformedError
        letter = pair[1]
        size = _HEX_DIGITS.get(letter, 0) if letter == "u" or self._style.python_escapes else 0
        digits = (yield from self._source.peek(2 + size))[2:]
        if size and re.fullmatch(rf"[0-9a-fA-F]{{{size}}}", digits):
            self._source.take(2 + size)
            number = int(digits, 16)
            self._write(f"\\u{digits}" if size == 4 else json.dumps(chr(min(number, 0x10FFFF)))[1:-1])
            return
        self._source.take(2)
        if self._style.python_escapes and letter in _PYTHON_ESCAPES:
            self._write(escaped(_PYTHON_ESCAPES[letter]))
        elif letter in '"\\/bfnrt':
            self._write(pair)
        elif letter == "'":
            self._write("'")
        elif not (letter == "\n" and self._style.python_escapes):
            self._write(escaped(pair))

    def _gemma_string(self) -> Reading[None]:
        self._write('"')
        while True:
            text, mark = yield from self._source.until(_GEMMA_QUOTE)
            self._write(escaped(text))
            if mark:
                break
            if not text:
                raise MalformedError
        self._write('"')

    def _scalar(self) -> Reading[None]:
        text = yield from self._source.token(_SCALAR, _MAX_SCALAR)
        if text in self._style.words:
            self._write(_PYTHON_WORDS[text])
        elif _NUMBER.fullmatch(text):
            self._write(text)
        else:
            raise MalformedError
