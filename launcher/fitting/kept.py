"""Keeps what a prediction has measured in the user's cache folder, as a device's own numbers are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from tplaunch.launcher.devices import DeviceChoice
from tplaunch.worker.measuring.machine import machine_measurements
from tplaunch.worker.measuring.measurements import Numbers


def kept_numbers(
    choices: Sequence[DeviceChoice], what: bytes, anew: bool, measure: Callable[[], dict[str, float]]
) -> Numbers:
    """Returns what was measured of these devices together, by name, or measures it now.

    what: everything else that it depends on. anew: measure in any case. Raises what `measure` raises.
    """
    devices = "; ".join(f"{choice.name}, {choice.kind}, {choice.driver}" for choice in choices)
    measurements, name = machine_measurements(devices), hashlib.sha256(what).hexdigest()
    kept = measurements.get(name)
    if kept and not anew:
        return kept
    measurements.put(name, dict(measure()))
    measurements.save()
    return measurements.get(name)
