"""Shows which kernels of a device are right: a table for people, plain data for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.launcher.check_job import DeviceReport, Outcome
from tplaunch.launcher.checking.figure_report import COLUMNS
from tplaunch.launcher.table import format_table

TYPES = sorted({name.lower() for name in (*WEIGHT_TYPES, *KV_TYPES)}, key=len, reverse=True)


def described(report: DeviceReport, every_kernel: bool = False) -> str:
    """A device, a line for each kind of kernels and for each wrong kernel, and a summary."""
    lines = [headline(report)]
    by_kernel = _grouped(report.outcomes, _base)
    shown = by_kernel if every_kernel else _grouped(report.outcomes, _kind)
    if shown:
        rows = [(family, variant, *_numbers(outcomes)) for (family, variant), outcomes in shown.items()]
        titles = ("family", "variant", "checks", "error", "bound", "")
        lines.append(format_table(titles, rows))
    wrong = [outcomes for outcomes in by_kernel.values() if not all(one.is_right for one in outcomes)]
    for outcomes in wrong:
        lines += textwrap.wrap(_blamed(outcomes), COLUMNS, subsequent_indent="   ")
    right = len(by_kernel) - len(wrong)
    lines.append(
        f"{right} of {len(by_kernel)} kernels are right" + (f"; {report.error}" if report.error else "")
    )
    return "\n".join(lines)


def headline(report: DeviceReport) -> str:
    """Names a device, and what makes its kernels."""
    what = "by" if report.index is None else "driver"
    return f"{report.word}  {report.device}\n   {what} {report.driver or 'unknown'}"


def _base(outcome: Outcome) -> tuple[str, str]:
    """A kernel without its variant, and that."""
    return outcome.kernel.removesuffix(outcome.variant), outcome.variant


def _kind(outcome: Outcome) -> tuple[str, str]:
    """The same without the type of weights or of the cache."""
    base, variant = _base(outcome)
    found = next((name for name in TYPES if f"_{name}" in base), None)
    return (base if found is None else base.replace(f"_{found}", "", 1)), variant


def _grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], tuple[str, str]]
) -> dict[tuple[str, str], list[Outcome]]:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        family, variant = key(outcome)
        groups.setdefault((family, variant.removeprefix("_") or "plain"), []).append(outcome)
    return groups


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The one nearest to its bound, or beyond it."""

    def badness(outcome: Outcome) -> float:
        if outcome.problem or outcome.error is None:
            return float("inf")
        return outcome.error / outcome.bound

    return max(outcomes, key=badness)


def _numbers(outcomes: Sequence[Outcome]) -> tuple[str, str, str, str]:
    worst = _worst(outcomes)
    num_wrong = sum(not outcome.is_right for outcome in outcomes)
    error = "none" if worst.error is None else f"{worst.error:.1e}"
    return str(len(outcomes)), error, f"{worst.bound:.1e}", f"{num_wrong} wrong" if num_wrong else "ok"


def _blamed(outcomes: Sequence[Outcome]) -> str:
    """Says of a wrong kernel what it does."""
    worst = _worst(outcomes)
    if worst.problem:
        return f"{worst.kernel} fails: {worst.problem}"
    error = (
        "no number"
        if worst.error is None
        else f"an error of {worst.error:.1e}, where {worst.bound:.1e} may be"
    )
    num_wrong = sum(not outcome.is_right for outcome in outcomes)
    return f"{worst.kernel} is wrong in {num_wrong} of {len(outcomes)} checks: {error}"


def kernels_json(report: DeviceReport) -> dict[str, Any]:
    """A device with each of its kernels; of a wrong one, what it was run with."""
    kernels = []
    for outcomes in _grouped(report.outcomes, _base).values():
        worst = _worst(outcomes)
        kernels.append(
            {
                "kernel": worst.kernel,
                "family": worst.family,
                "variant": worst.variant,
                "checks": len(outcomes),
                "error": worst.error,
                "bound": worst.bound,
                "right": all(outcome.is_right for outcome in outcomes),
                "wrong": [
                    {"op": one.op, "error": one.error, "problem": one.problem}
                    for one in outcomes
                    if not one.is_right
                ],
            }
        )
    return {
        "index": report.index,
        "word": report.word,
        "device": report.device,
        "driver": report.driver,
        "right": report.is_right,
        "error": report.error,
        "kernels": kernels,
    }
