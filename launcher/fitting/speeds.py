"""Speeds of devices, to split a model by: weights per second of a matrix-vector product.

Decode does little else. A copy's bandwidth would say the same of GPUs, but not of drivers for CPUs, whose
kernels are far from reading as fast as they copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tplaunch.coordinator.split.placement import HEAD
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.cores import usable_cores, with_cores
from tplaunch.launcher.device_job import JobConfig, run_device_job
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.worker.jobs.messages import Speed, SpeedJob

TIMEOUT_SECONDS = 300.0
ALIKE = 1.1
Likeness: TypeAlias = tuple[str, str, int, int]
Measure: TypeAlias = Callable[[RunConfig, DeviceChoice], float]  # device_speed(), or another host's


def rank_speeds(
    config: RunConfig, choices: Sequence[DeviceChoice], measure: Measure | None = None
) -> list[float]:
    """Weights per second of each rank; devices of one name and kind count as equally fast. Raises RunError.

    But a CPU is as fast as its host, and has the same name on all of them. Compiled kernels are as fast as
    the cores that they have beside the other ranks. Ranks on one GPU share it, and kernels such cores; on a
    CPU driver each rank has a core of its own. measure: None where all devices are on this host.
    """
    choices = _with_cores(choices)
    equal = list(map(_likeness, choices))
    speeds: dict[Likeness, float] = {}
    if len(set(equal)) == 1:
        speeds[equal[0]] = 1.0  # nothing to compare with
    for choice, key in zip(choices, equal, strict=True):
        if key not in speeds:
            speeds[key] = (measure or device_speed)(config, choice)
    speeds = _evened(speeds)
    return [
        speeds[key] / (1 if choice.takes_one_core else choices.count(choice))
        for choice, key in zip(choices, equal, strict=True)
    ]


def _with_cores(choices: Sequence[DeviceChoice]) -> list[DeviceChoice]:
    """Names the cores of this host's ranks."""
    own = iter(with_cores([choice for choice in choices if choice.host == HEAD], usable_cores()))
    return [next(own) if choice.host == HEAD else choice for choice in choices]


def _likeness(choice: DeviceChoice) -> Likeness:
    """Tells which devices are equally fast: name and kind, host, and number of cores."""
    return choice.name, choice.kind, choice.host if choice.on_cpu else HEAD, len(choice.own_cores)


def _evened(speeds: Mapping[Likeness, float]) -> dict[Likeness, float]:
    """Gives devices of one name and kind that are about as fast on several hosts the speed of the slowest.

    Measuring again would change as much.
    """
    found: dict[Likeness, float] = {}
    for key in sorted(speeds, key=speeds.__getitem__):
        slower = [found[other] for other in found if (*other[:2], other[3]) == (*key[:2], key[3])]
        alike = slower and speeds[key] <= ALIKE * slower[-1]
        found[key] = slower[-1] if alike else speeds[key]
    return found


def device_speed(config: JobConfig, choice: DeviceChoice, anew: bool = False) -> float:
    """Returns the speed of one rank alone on it, as measured before or now. Raises RunError."""
    job = SpeedJob(choice.takes_one_core, anew, config.rank_options)
    return run_device_job(config, choice, job, Speed, TIMEOUT_SECONDS).weights_per_second
