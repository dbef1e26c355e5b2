"""`tplaunch check`: which kernels are right on each device, and what the device is good for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.options import RankOptions
from tplaunch.launcher.check_job import DeviceReport, Outcome, check_device
from tplaunch.launcher.checking.figure_report import COLUMNS, figures_json, figures_text
from tplaunch.launcher.checking.models import prompt_figures, rank_figures
from tplaunch.launcher.checking.pairs import pair_figures
from tplaunch.launcher.checking.parts import part_figures
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import EXIT_FAILURE, UsageError
from tplaunch.launcher.table import format_table
from tplaunch.worker.jobs.figures import Figure

TYPES = sorted({name.lower() for name in (*WEIGHT_TYPES, *KV_TYPES)}, key=len, reverse=True)


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Which devices, and how they are opened."""

    devices: str
    json: bool = False
    verbose: bool = False  # a line for every kernel, and the log
    quick: bool = False  # kernels only, without speeds
    rank_options: RankOptions = dataclasses.field(default_factory=RankOptions)


def check(config: CheckConfig) -> int:
    """Each device once, one after another, and neighbours together. Returns 1 where anything is wrong."""
    choices = [choice for choice in dict.fromkeys(select_devices(config.devices)) if choice.index is not None]
    if not choices:
        raise UsageError(
            f"--devices {config.devices}: NumPy is what kernels are checked against; name a Vulkan device"
        )
    progress, devices, pairs = Progress(), [], []
    for choice in choices:
        devices.append(_checked_device(config, choice, progress))
    for pair in () if config.quick else itertools.pairwise(choices):
        pairs.append(_checked_pair(config, pair, progress))
    is_right = all(found["right"] for found in (*devices, *pairs))
    if config.json:
        print(json.dumps({"right": is_right, "devices": devices, "pairs": pairs}, indent=1))
    return 0 if is_right else EXIT_FAILURE


def _checked_device(config: CheckConfig, choice: DeviceChoice, progress: Progress) -> dict[str, Any]:
    """Prints what a person is to see of it as soon as it is there; returns all of it as plain data."""
    report = check_device(config, choice, progress.checked)
    if not config.json:
        print(described(report, config.verbose), flush=True)
    found = as_json(report)
    if config.quick or report.error:
        return found
    told = (
        part_figures(config, choice, progress.measuring),
        pair_figures(config, (choice, choice), progress.measuring),
        prompt_figures(config, choice, progress.measuring),
        rank_figures(config, choice, progress.measuring),
    )
    speeds = _shown_figures(config, list(itertools.chain(*told)), choice.on_cpu, progress)
    return {**found, "right": found["right"] and speeds["right"], "speeds": speeds}


def _checked_pair(
    config: CheckConfig, pair: tuple[DeviceChoice, DeviceChoice], progress: Progress
) -> dict[str, Any]:
    """The same of two devices together."""
    figures = list(pair_figures(config, pair, progress.measuring))
    if not config.json:
        print(f"\n{pair[0].index} and {pair[1].index}  {pair[0].name} and {pair[1].name}")
    on_cpu = any(choice.on_cpu for choice in pair)
    return {"indices": [choice.index for choice in pair], **_shown_figures(config, figures, on_cpu, progress)}


def _shown_figures(
    config: CheckConfig, figures: Sequence[Figure], on_cpu: bool, progress: Progress
) -> dict[str, Any]:
    progress.end()
    if not config.json:
        print(figures_text(figures, on_cpu), flush=True)
    return figures_json(figures, on_cpu)


class Progress:
    """Says on a terminal what is checked or measured now, in one line."""

    def __init__(self) -> None:
        self._is_open = False  # the line

    def checked(self, report: DeviceReport) -> None:
        """Tells how many kernels are checked."""
        self._show(f"checking {report.device}: {len(report.outcomes)} of {report.count}")
        if len(report.outcomes) == report.count:
            self.end()

    def measuring(self, what: str) -> None:
        """Tells what is measured."""
        self._show(f"measuring: {what}")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text:.79}", end="", file=sys.stderr, flush=True)
            self._is_open = True

    def end(self) -> None:
        """Ends the line."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False


def described(report: DeviceReport, every_kernel: bool = False) -> str:
    """A device, a line for each kind of kernels and for each wrong kernel, and a summary."""
    lines = [f"{report.index}  {report.device}", f"   driver {report.driver or 'unknown'}"]
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


def as_json(report: DeviceReport) -> dict[str, Any]:
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
        "device": report.device,
        "driver": report.driver,
        "right": report.is_right,
        "error": report.error,
        "kernels": kernels,
    }
