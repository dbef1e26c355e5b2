"""Lines for people: sentences broken between words where a terminal ends, and remarks on standard error."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

USUAL_WIDTH = 80  # Python 3.10 says 0 of a terminal that does not know its size
RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
MIN_WIDTH = 40  # columns: in fewer, a table's first column leaves no room for the others


def line_width() -> int:
    """Returns the terminal's columns, or those of COLUMNS; 80 where neither is there."""
    return max(MIN_WIDTH, shutil.get_terminal_size().columns or USUAL_WIDTH)


def wrapped(text: str, indent: str = "", width: int | None = None) -> str:
    """Breaks the text into lines of at most `width` columns, line_width() by default.

    Longer words stay whole.

    indent: of every line but the first.
    """
    lines = textwrap.wrap(
        text,
        line_width() if width is None else width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def shown(text: str) -> str:
    """Escapes the control characters of a text that has names in it: they would break or move the line.

    What stands for bytes that are no UTF-8 stays: the streams know how to write it.
    """
    return "".join(
        char if char.isprintable() or "\ud800" <= char <= "\udfff" else repr(char)[1:-1] for char in text
    )


def numbered(name: str, numbers: Sequence[int]) -> str:
    """Returns things that have numbers, as "node ranks 1, 2 and 3"."""
    *others, last = map(str, numbers)
    return f"{name}s {', '.join(others)} and {last}" if others else f"{name} {last}"


def say(text: str) -> None:
    """Prints a remark on standard error: wrapped on a terminal, in one line where a program reads it.

    Nothing where there is no standard error: print would then use standard output.
    """
    if sys.stderr is None:
        return
    text = f"tplaunch: {shown(text)}"
    print(wrapped(text) if sys.stderr.isatty() else text, file=sys.stderr)


def alarm(text: str) -> None:
    """Says what a person must not overlook: in red on a terminal, else as any other remark."""
    if sys.stderr is None or not sys.stderr.isatty():
        say(f"WARNING: {text}")
    else:
        print(f"{RED}{wrapped(f'tplaunch: WARNING: {shown(text)}')}{PLAIN}", file=sys.stderr)
