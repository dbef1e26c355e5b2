"""`tplaunch tune`: measures every device anew, and shows what it will choose."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import padded
from tplaunch.launcher.config import HubModel, RandomModel, RunConfig
from tplaunch.launcher.device_job import run_device_job
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.fitting.speeds import device_speed
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.model import open_model
from tplaunch.launcher.session import start_session
from tplaunch.worker.jobs.messages import Tuning, TuningJob
from tplaunch.worker.measuring.two_phase import WAYS, bucket_rows, kept_measurements, measurement_name, pays
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.vulkan.variants import FREQUENT

TIMEOUT_SECONDS = 1800  # of one device: a slow driver compiles a kernel for most of a minute
# What is measured where no model is named: a shape with small and large matrices.
DEFAULT_MODELS = tuple(RandomModel("llama-160m", name) for name in FREQUENT)


def tune(config: RunConfig, models: Sequence[Path | HubModel | RandomModel], as_json: bool) -> int:
    """Measures what these models may choose, on each of the devices that they would run on, one by one.

    Then, of more than two ranks together, how they add up best.
    """
    choices = select_devices(config.devices)
    ranks: dict[DeviceChoice, list[int]] = {}
    for rank, choice in enumerate(choices):
        if choice.index is not None:
            ranks.setdefault(choice, []).append(rank)
    if not ranks:
        raise UsageError(
            f"--devices {config.devices}: processors have nothing to choose; name a Vulkan device"
        )
    programs = [_programs(dataclasses.replace(config, model=model), choices) for model in models]
    results = []
    for choice, held in ranks.items():
        of_ranks = (of_model[rank] for of_model in programs for rank in held)
        job = TuningJob.of(of_ranks, config.kv_type, config.activations, config.rank_options)
        results.append(_measure(config, choice, job))
        if not as_json:
            _print(results[-1])
    have_phases = len(choices) > 2 and config.collective == "shared-memory"
    together = _measure_ranks(config, models[-1], choices) if have_phases else None
    if as_json:
        print(json.dumps({"devices": results, "ranks": together}, indent=2))
    elif together is not None:
        print(f"{len(choices)} ranks together")
        _print_measurements(together)
    return 0


def _measure_ranks(
    config: RunConfig, model: Path | HubModel | RandomModel, choices: list[DeviceChoice]
) -> dict[str, Any]:
    """Starts the ranks as a run does: they measure before they load."""
    config = dataclasses.replace(config, model=model, all_reduce="auto", measure_anew=True)
    opened = open_model(config)
    arrangement = arrange(config, opened, choices)
    with start_session(config, opened, arrangement) as session:
        devices = [message.device for message in session.attached]
        kinds = [message.kind for message in session.attached]
    kept, row_bytes = kept_measurements(kinds), padded(opened.spec.embedding_length) * 4
    measurements = []
    for rows in bucket_rows(arrangement.limits.max_rows):
        name = measurement_name(rows * row_bytes)
        one_shot, two_phase = (kept.get(name).get(way) for way in WAYS)
        if one_shot is None or two_phase is None:
            break  # smaller ones don't gain, so they are not measured
        chosen = WAYS[pays(one_shot, two_phase)]
        seconds = dict(zip(WAYS, (one_shot, two_phase), strict=True))
        measurements.append({"name": name, "seconds": seconds, "chosen": chosen})
    return {"devices": devices, "file": str(kept.path) if kept.path else None, "measurements": measurements}


def _programs(config: RunConfig, choices: list[DeviceChoice]) -> list[Program]:
    """The program of each rank for a row, which names all that others need too."""
    model = open_model(config)
    arrangement, programs = arrange(config, model, choices), []
    options = ProgramOptions(arrangement.limits.generated_activations)
    for share in arrangement.plan:
        shards = rank_shards(model.spec, share, model.tensors)
        programs.append(build_program(model.spec, share, shards, len(choices), 1, 1, options))
    return programs


def _measure(config: RunConfig, choice: DeviceChoice, job: TuningJob) -> dict[str, Any]:
    """Returns what the device's own process says, and how fast it is. Raises RunError."""
    found = run_device_job(config, choice, job, Tuning, TIMEOUT_SECONDS)
    speed = device_speed(config, choice, anew=True)
    return {"index": choice.index, **dataclasses.asdict(found), "weights_per_second": speed}


def _print(found: dict[str, Any]) -> None:
    print(wrapped(f"{found['index']}  {found['device']}, driver {found['driver']}", "   "))
    _print_measurements(found)
    print(f"{found['weights_per_second'] / 1e9:.3g} G weights/s, by which --tensor-split auto goes")


def _print_measurements(found: dict[str, Any]) -> None:
    rows = [
        (row["name"], _shown(row["chosen"]), _microseconds(row["seconds"])) for row in found["measurements"]
    ]
    for name, chosen, microseconds in rows:
        print(wrapped(f"{name}: chosen {chosen}, in microseconds: {microseconds}", "    "))
    print(wrapped(f"kept in {found['file']}" if found["file"] else "not kept: -v says why"))


def _microseconds(seconds: dict[str, float | None]) -> str:
    return ", ".join(
        f"{_shown(option)} " + ("wrong" if value is None else f"{value * 1e6:.1f}")
        for option, value in seconds.items()
    )


def _shown(option: str) -> str:
    """A variant by its suffix."""
    return option.removeprefix("_").replace("_", " ") or "plain"
