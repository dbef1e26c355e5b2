"""`tplaunch check`: which kernels are right on each device, and what the device is good for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

from tplaunch.coordinator.options import RankOptions
from tplaunch.launcher.check_job import DeviceReport, check_device
from tplaunch.launcher.checking.figure_report import figures_json, figures_text
from tplaunch.launcher.checking.kernel_report import described, headline, kernels_json
from tplaunch.launcher.checking.models import prompt_figures, rank_figures
from tplaunch.launcher.checking.pairs import pair_figures
from tplaunch.launcher.checking.parts import part_figures
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import EXIT_FAILURE, UsageError
from tplaunch.launcher.signals import Signalled, raise_anew
from tplaunch.worker.jobs.figures import Figure


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Which devices, and how they are opened."""

    devices: str
    json: bool = False
    verbose: bool = False  # a line for every kernel, and the log
    quick: bool = False  # kernels only, without speeds
    speeds: bool = False  # speeds only, without kernels
    rank_options: RankOptions = dataclasses.field(default_factory=RankOptions)

    def __post_init__(self) -> None:
        if self.quick and self.speeds:
            raise UsageError("--quick leaves the speeds out, and --speeds all else; give one of them")


@dataclasses.dataclass
class FoundFigures:
    """The figures of a device, or of two together, as they come."""

    choices: tuple[DeviceChoice, ...]
    figures: list[Figure] = dataclasses.field(default_factory=list)

    @property
    def on_cpu(self) -> bool:
        return any(choice.on_cpu for choice in self.choices)

    def as_json(self) -> dict[str, Any]:
        """As the output has it."""
        return figures_json(self.figures, self.on_cpu)


@dataclasses.dataclass
class FoundDevice:
    """All of a device; the speeds are None where none are measured."""

    report: DeviceReport
    speeds: FoundFigures | None = None

    def as_json(self) -> dict[str, Any]:
        """As the output has it."""
        found = kernels_json(self.report)
        if self.speeds is None:
            return found
        speeds = self.speeds.as_json()
        return {**found, "right": found["right"] and speeds["right"], "speeds": speeds}


def check(config: CheckConfig) -> int:
    """Each device once, one after another, and neighbours together. Returns 1 where anything is wrong.

    A signal that ends it is raised again, behind what was found by then.
    """
    choices = [choice for choice in dict.fromkeys(select_devices(config.devices)) if not choice.in_numpy]
    if not choices:
        raise UsageError(
            f"--devices {config.devices}: NumPy is what kernels are checked against; name another device"
        )
    checks = Checks(config)
    try:
        checks.run(choices)
    except Signalled as end:
        checks.end(f"not complete: ended by {end}")
        raise
    return 0 if checks.end() else EXIT_FAILURE


class Checks:
    """Checks devices, and shows what a person is to see as soon as it is there."""

    def __init__(self, config: CheckConfig) -> None:
        self._config, self._progress = config, Progress()
        self._devices: list[FoundDevice] = []
        self._pairs: list[FoundFigures] = []
        self._unshown: DeviceReport | FoundFigures | None = None  # that is not all there yet

    def run(self, choices: list[DeviceChoice]) -> None:
        """Checks everything."""
        for choice in choices:
            self._check_device(choice)
        pairs = itertools.pairwise(choice for choice in choices if not choice.has_threads)
        for pair in () if self._config.quick else pairs:
            self._pairs.append(FoundFigures(pair))
            if not self._config.json:
                print(f"\n{pair[0].index} and {pair[1].index}  {pair[0].name} and {pair[1].name}")
            self._take(self._pairs[-1], pair_figures(self._config, pair, self._progress.measuring))

    def end(self, reason: str = "") -> bool:
        """Shows what was not shown before; returns true if nothing is wrong. reason: why it is not all."""
        self._show()
        devices = [device.as_json() for device in self._devices]
        pairs = [
            {"indices": [choice.index for choice in pair.choices], **pair.as_json()} for pair in self._pairs
        ]
        is_right = all(found["right"] for found in (*devices, *pairs))
        if self._config.json:
            found = {"right": is_right, "complete": not reason, "devices": devices, "pairs": pairs}
            print(json.dumps(found, indent=1), flush=True)
        elif reason:
            print(reason, flush=True)
        return is_right

    def _check_device(self, choice: DeviceChoice) -> None:
        config, progress = self._config, self._progress
        report = DeviceReport(choice.index, choice.word, choice.name, choice.driver)
        self._devices.append(FoundDevice(report))
        if not config.speeds:
            self._unshown = report
            check_device(config, choice, report, progress.checked)
            self._show()
        if config.quick or report.error:
            return
        told = (
            part_figures(config, choice, progress.measuring),
            () if choice.has_threads else pair_figures(config, (choice, choice), progress.measuring),
            prompt_figures(config, choice, progress.measuring),
            rank_figures(config, choice, progress.measuring),
        )
        if config.speeds and not config.json:
            print(headline(report), flush=True)
        self._devices[-1].speeds = FoundFigures((choice,))
        self._take(self._devices[-1].speeds, itertools.chain(*told))

    def _take(self, found: FoundFigures, told: Iterable[Figure]) -> None:
        self._unshown = found
        for figure in told:
            found.figures.append(figure)
            raise_anew()  # a run that a signal has ended may be a figure that says so
        self._show()

    def _show(self) -> None:
        """Prints what is not shown yet, for people."""
        self._progress.end()
        found, self._unshown = self._unshown, None
        if found is None or self._config.json:
            return
        if isinstance(found, DeviceReport):
            print(described(found, self._config.verbose), flush=True)
        elif found.figures:
            print(figures_text(found.figures, found.on_cpu), flush=True)


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
