"""Texts that people read stay within the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import pytest

from tests.unit.listed_devices import GEFORCE, LAVAPIPE, NVK, numbered
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands.show import FEATURES
from tplaunch.launcher.devices import DeviceList
from tplaunch.launcher.lines import line_width, say, shown, wrapped
from tplaunch.launcher.options import make_parser
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


def test_remarks_are_dropped_where_nobody_can_read_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    say("anything")
    assert capsys.readouterr().out == ""


# What the commands print.

COMMANDS = tuple(make_parser().commands)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Lines of standard output. A word longer than the terminal would be cut anyway, so none is here."""
    with contextlib.suppress(SystemExit):  # as --help ends
        assert main(words) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        *((command, "--help") for command in COMMANDS),
        ("models",),
        ("plan", "--demo", "--devices=numpy,numpy"),
        ("plan", "--shape=qwen3-30b-a3b", "--devices=5,6,7", "--max-memory=5=90GiB,6=90GiB,7=90GiB"),
        ("plan", "--shape=tiny", "--devices=numpy,numpy,numpy,numpy,numpy,numpy,numpy,numpy"),
    ],
)
def test_commands_keep_to_the_terminal(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys, *words)
    assert len(lines) > 2 and [line for line in lines if len(line) > 80] == []
    monkeypatch.delenv("COLUMNS")  # a pipe
    assert printed(capsys, *words) == lines


def test_devices_keep_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp")
    said: dict[str, Any] = dict.fromkeys(FEATURES, True) | {"min_subgroup_size": 8, "max_subgroup_size": 64}
    said |= {
        "compute_queue": True,
        "driver": "NVIDIA 570.86.16 of the open kernel modules, as packaged by a distribution",
    }
    slow = LAVAPIPE | {"integer_dot_accelerated": False}
    listed = numbered(*(each | said for each in (GEFORCE, NVK, slow)))
    monkeypatch.setattr("tplaunch.launcher.commands.show.list_devices", lambda: DeviceList(listed, ""))
    lines = printed(capsys, "devices")
    assert [line for line in lines if len(line) > 80] == []
    text = " ".join(" ".join(lines).split())
    assert "all leaves it out: device 0 is the same hardware by a preferred driver" in text
    assert "all leaves it out: a discrete card is there" in text
    assert text.count("integer dot product") == 3 == text.count("queue draws nothing")
    assert text.count("integer dot product (not accelerated, says its driver)") == 1
    assert "`--devices all`, which is what runs without --devices, takes 0." in text
    found = json.loads("\n".join(printed(capsys, "devices", "--json")))["devices"]
    assert [each["in_all"] for each in found] == [True, False, False]
    assert found[0]["left_out"] is None and found[1]["left_out"].startswith("device 0 is the same")


def test_names_move_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb\x1b[31m\u202ec.gguf: no such file, \u00e9 \U0001f98a")
    assert (
        capsys.readouterr().err == "tplaunch: a\\nb\\x1b[31m\\u202ec.gguf: no such file, \u00e9 \U0001f98a\n"
    )
    assert shown("caf\udce9") == "caf\udce9"  # which the streams write as the byte that it stands for
