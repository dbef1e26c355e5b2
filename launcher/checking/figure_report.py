"""Shows figures: a table for people, plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tplaunch.launcher.checking.usual import remarks, shares
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.table import format_table
from tplaunch.worker.jobs.figures import BYTES, ERROR, FLAG, OPERATIONS, RATIO, SECONDS, TOKENS, Figure

COLUMNS = 80  # of a terminal
TITLES = ("line", "of", "measured", "share")


def figures_text(figures: Sequence[Figure], on_cpu: bool) -> str:
    """A table of all figures, then a sentence for each that is wrong or worth a remark."""
    found = shares(figures)
    rows = [
        (figure.what, figure.of, _value(figure), found[figure.key].text if figure.key in found else "")
        for figure in figures
    ]
    lines = [format_table(TITLES, rows, COLUMNS)]
    lines += [_broken(f"{figure.what}: {figure.problem}") for figure in figures if figure.problem]
    lines += [_broken(f"note: {remark}") for remark in remarks(figures, on_cpu)]
    return "\n".join(lines)


def _broken(text: str) -> str:
    return wrapped(text, "   ", COLUMNS)


def _value(figure: Figure) -> str:
    if figure.problem and (figure.value is None or figure.unit == FLAG):
        return "wrong"
    if figure.value is None:
        return "-"
    return value_text(figure.value, figure.unit) + (", wrong" if figure.problem else "")


def value_text(value: float, unit: str) -> str:
    """A number for people, in units of their size."""
    if unit == OPERATIONS:
        scale, name = (1e9, "GFLOP/s") if value < 1e12 else (1e12, "TFLOP/s")
        return f"{_number(value / scale)} {name}"
    if unit == FLAG:
        return "yes" if value else "no"
    if unit == ERROR:
        return f"error {value:.0e}"
    if unit == RATIO:
        return f"{value:.2f} x"
    scale, name = {BYTES: (1e9, "GB/s"), SECONDS: (1e-6, "us"), TOKENS: (1, TOKENS)}[unit]
    return f"{_number(value / scale)} {name}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def figures_json(figures: Sequence[Figure], on_cpu: bool) -> dict[str, Any]:
    """The figures as plain data, each with what it is a share of, and the remarks on them."""
    found = shares(figures)
    return {
        "right": not any(figure.problem for figure in figures),
        "figures": [
            {
                "key": figure.key,
                "what": figure.what,
                "of": figure.of,
                "value": figure.value,
                "unit": figure.unit,
                "right": not figure.problem,
                "problem": figure.problem,
                "note": figure.note,
                "share": found[figure.key].part if figure.key in found else None,
                "share_of": found[figure.key].of if figure.key in found else None,
            }
            for figure in figures
        ],
        "remarks": remarks(figures, on_cpu),
    }
