"""What people read stays within the terminal."""

from __future__ import annotations

import io
import sys

import pytest

from tplaunch.launcher.lines import line_width, say, wrapped
from tplaunch.launcher.table import format_table


def test_tables_that_are_too_wide_go_on_below() -> None:
    titles, rows = (
        ("rank", "first", "second", "third"),
        [("0", "a" * 10, "b" * 10, "c" * 30), ("1", "", "", "")],
    )
    assert format_table(titles, rows, 30).splitlines() == [
        "rank       first      second",
        "   0  aaaaaaaaaa  bbbbbbbbbb",
        "   1",
        "rank                           third",
        "   0  cccccccccccccccccccccccccccccc",  # a column stays whole
        "   1",
    ]
    assert len(format_table(titles, rows, 80).splitlines()) == 3


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, width in (("80", 80), ("200", 200), ("7", 40)):
        monkeypatch.setenv("COLUMNS", columns)
        assert line_width() == width


def test_words_stay_whole() -> None:
    text = "kept in /a/very/long-path/that-has/hyphens-and-no/spaces-at-all; and more"
    assert wrapped(text, "  ", 20).splitlines() == [
        "kept in", "  /a/very/long-path/that-has/hyphens-and-no/spaces-at-all;", "  and more",
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_remarks_are_broken_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    say("word " * 30)
    assert capsys.readouterr().err.count("\n") == 1
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    say("word " * 30)
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines)
    assert " ".join(lines).split() == ["tplaunch:", *["word"] * 30]
