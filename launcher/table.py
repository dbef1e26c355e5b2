"""Rows as aligned text, the same on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.launcher.lines import line_width

GAP = "  "


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns as wide as their longest cell, aligned to the right.

    Columns that find no room in `width`, line_width() by default, go below in a table of their own, which
    begins with the first column again.
    """
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    parts = _parts(widths, line_width() if width is None else width)
    return "\n".join(
        GAP.join(row[column].rjust(widths[column]) for column in part).rstrip()
        for part in parts
        for row in (titles, *rows)
    )


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each table, by number."""
    parts, used = [[0]], widths[0]
    for column in range(1, len(widths)):
        needed = len(GAP) + widths[column]
        if used + needed > room and len(parts[-1]) > 1:
            parts.append([0])
            used = widths[0]
        parts[-1].append(column)
        used += needed
    return parts
