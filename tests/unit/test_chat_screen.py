"""Text on a terminal: broken between words however it comes, harmless, and otherwise as it is."""

from __future__ import annotations

import io
import random
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.launcher.chat.screen import Screen, Wrapper, text_width, visible
from tplaunch.launcher.chat.typed import Typed, read_typed

pytestmark = pytest.mark.unit


def shown(text: str, columns: int = 20, pieces: int = 3) -> str:
    """Returns the text that a terminal gets when it comes in pieces of so many characters."""
    wrapper = Wrapper(lambda: columns)
    cut = [text[start : start + pieces] for start in range(0, len(text), pieces)]
    return "".join(map(wrapper.push, cut)) + wrapper.finish()


def test_words_stay_whole() -> None:
    text = "The quick brown fox jumps over the lazy dog."
    assert shown(text) == "The quick brown fox\njumps over the lazy\ndog."
    assert shown("a  b", 20) == "a  b"


def test_a_word_that_is_longer_than_a_line_stays_where_it_is() -> None:
    url = "https://example.org/" + "x" * 30
    assert shown(f"see {url} and so on", 20) == f"see {url} and\nso on"


def test_code_stays_as_it_is() -> None:
    code = "```python\nprint('a line that is longer than the terminal is wide')\n\n    ``\n```\n"
    text = f"Look:\n\n{code}It prints a line that is long."
    assert shown(text) == f"Look:\n\n{code}It prints a line\nthat is long."
    assert shown("```one``` two three four five six") == "```one``` two three\nfour five six"


def test_scripts_without_blanks_break_anywhere() -> None:
    assert shown("\u6c34" * 12 + " end", 20) == "\u6c34" * 10 + "\n" + "\u6c34" * 2 + " end"
    assert text_width("e\u0301") == 1


def test_the_width_is_asked_for_as_it_changes() -> None:
    columns = 20
    wrapper = Wrapper(lambda: columns)
    first = wrapper.push("one two three four five ")
    columns = 10
    rest = wrapper.push("six seven eight nine ") + wrapper.finish()
    assert first + rest.rstrip() == "one two three four\nfive six\nseven\neight nine"


def test_control_characters_are_signs() -> None:
    assert visible("\x1b[2J\x07a\r\n\tb\x7f\x9b") == "\u241b[2J\u2407a\n\tb\u2421\ufffd"
    assert shown("\x1b]0;title\x07", 40) == "\u241b]0;title\u2407"


class Stream(io.StringIO):
    """A stream that may be a terminal's, of 20 columns."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_text_that_is_continued_is_no_part_of_standard_output(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Stream(True), Stream(is_terminal)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr("tplaunch.launcher.chat.screen.terminal_columns", lambda: 20)
    screen = Screen()
    screen.echo("Once upon a time")
    screen.show(" there was")
    screen.end()
    assert out.getvalue() == ("\nthere was\n" if is_terminal else " there was\n")
    assert err.getvalue() == ("Once upon a time" if is_terminal else "")


def test_text_that_is_piped_is_exactly_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Stream(False)
    monkeypatch.setattr(sys, "stdout", out)
    screen = Screen()
    screen.echo("Once")
    for piece in ("a" * 50, " \x1b[1m", " \r\n b", ""):
        screen.show(piece)
    screen.end()
    assert out.getvalue() == "a" * 50 + " \x1b[1m \r\n b\n"


words = st.text("ab\u6c34`~- \n\t", max_size=60)


@given(words, st.integers(1, 30), st.integers(0, 2**32))
def test_nothing_is_lost_however_it_is_cut(text: str, columns: int, seed: int) -> None:
    draw = random.Random(seed)
    wrapper, whole = Wrapper(lambda: columns), Wrapper(lambda: columns)
    result, rest = "", text
    while rest:
        count = draw.randint(1, 5)
        result += wrapper.push(rest[:count])
        rest = rest[count:]
    result += wrapper.finish()
    assert result == whole.push(text) + whole.finish()
    assert result.replace("\n", "").replace(" ", "").replace("\t", "") == "".join(text.split())


@given(st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=30), st.integers(8, 40))
def test_lines_are_those_of_textwrap(texts: list[str], columns: int) -> None:
    text = " ".join(texts)
    assert shown(text, columns) == "\n".join(textwrap.wrap(text, columns))


@pytest.mark.parametrize(
    ("lines", "text", "is_command"),
    [
        (["Hi"], "Hi", False),
        (["one \\", "two\\", "three"], "one \ntwo\nthree", False),
        (['"""one', "two\\", 'three"""'], "one\ntwo\\\nthree", False),
        (['"""', "/one", '"""'], "/one", False),
        (['"""one"""'], "one", False),
        (["/clear"], "/clear", True),
        ([" /etc"], " /etc", False),
        (["one\\"], "one", False),  # the end of input
        (['"""one', "two"], "one\ntwo", False),
    ],
)
def test_what_is_typed(lines: list[str], text: str, is_command: bool) -> None:
    rest = list(lines)

    def read(_prompt: str) -> str:
        if not rest:
            raise EOFError
        return rest.pop(0)

    typed = read_typed(read)
    assert (typed.text, typed.is_command, rest) == (text, is_command, [])
    with pytest.raises(EOFError):
        read_typed(read)
    assert isinstance(typed, Typed)
