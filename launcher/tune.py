"""`tplaunch tune`: measures every device anew, and shows what it will choose."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordinator.plan import padded
from coordinator.shards import rank_shards
from launcher.config import RandomModel, RunConfig, UsageError
from launcher.devices import WORKER_COMMAND, DeviceChoice, select_devices
from launcher.session import RunError, open_model, plan_ranks, start_session
from launcher.supervisor import rank_cores, thread_settings
from launcher.table import format_table
from worker.program import Program
from worker.transformer import build_program
from worker.tuning_job import TuningJob
from worker.two_phase import WAYS, bucket_rows, kept_measurements, measurement_name, pays
from worker.vulkan.variants import FREQUENT

TIMEOUT_SECONDS = 1800  # of one device: a slow driver compiles a kernel for most of a minute
# What is measured where no model is named: a shape with small and large matrices.
DEFAULT_MODELS = tuple(RandomModel("llama-160m", name) for name in FREQUENT)


def tune(config: RunConfig, models: Sequence[Path | RandomModel], as_json: bool) -> int:
    """Measures what these models may choose, on each of the devices that they would run on, one by one.

    Then, of more than two ranks together, how they add up best.
    """
    choices = select_devices(config.devices)
    ranks: dict[DeviceChoice, list[int]] = {}
    for rank, choice in enumerate(choices):
        if choice.index is not None:
            ranks.setdefault(choice, []).append(rank)
    if not ranks:
        raise UsageError(f"--devices {config.devices}: NumPy has nothing to choose; name a Vulkan device")
    programs = [_programs(dataclasses.replace(config, model=model), len(choices)) for model in models]
    results = []
    for choice, held in ranks.items():
        of_ranks = (of_model[rank] for of_model in programs for rank in held)
        job = TuningJob.of(of_ranks, config.kv_type, config.activations)
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
    config: RunConfig, model: Path | RandomModel, choices: list[DeviceChoice]
) -> dict[str, Any]:
    """Starts the ranks as a run does: they measure before they load."""
    config = dataclasses.replace(config, model=model, all_reduce="auto", measure_anew=True)
    opened = open_model(config)
    with start_session(config, opened, choices) as session:
        devices = [message.device for message in session.attached]
    kept, row_bytes = kept_measurements(devices), padded(opened.spec.embedding_length) * 4
    measurements = []
    for rows in bucket_rows(opened.limits.max_rows):
        name = measurement_name(rows * row_bytes)
        one_shot, two_phase = (kept.get(name).get(way) for way in WAYS)
        if one_shot is None or two_phase is None:
            break  # smaller ones don't gain, so they are not measured
        chosen = WAYS[pays(one_shot, two_phase)]
        seconds = dict(zip(WAYS, (one_shot, two_phase), strict=True))
        measurements.append({"name": name, "seconds": seconds, "chosen": chosen})
    return {"devices": devices, "file": str(kept.path) if kept.path else None, "measurements": measurements}


def _programs(config: RunConfig, num_ranks: int) -> list[Program]:
    """The program of each rank for a row, which names all that others need too."""
    model = open_model(config)
    programs = []
    for share in plan_ranks(config, model, num_ranks):
        shards = rank_shards(model.spec, share, model.tensors)
        programs.append(
            build_program(model.spec, share, shards, num_ranks, 1, 1, activations=config.activations)
        )
    return programs


def _measure(config: RunConfig, choice: DeviceChoice, job: TuningJob) -> dict[str, Any]:
    """What the device's own process says. Raises RunError."""
    if sys.stderr.isatty():
        print(f"measuring {choice.name}", file=sys.stderr)
    (cores,) = rank_cores([choice], sorted(os.sched_getaffinity(0)))
    command = [
        *WORKER_COMMAND,
        f"--tune={json.dumps(dataclasses.asdict(job))}",
        f"--parent={os.getpid()}",
        f"--device={choice.index}",
        f"--uuid={choice.uuid}",
        f"--cores={','.join(map(str, cores))}",
        f"--without={','.join(config.without)}",
        *(["--validate"] if config.validate else []),
    ]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **thread_settings(choice, len(cores))},
            stdout=subprocess.PIPE,
            stderr=None if config.verbose else subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"measuring {choice.name} was given up after {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        last = ((done.stderr or "").strip().splitlines() or ["no message"])[-1]
        raise RunError(f"measuring {choice.name} ended with code {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise RunError(f"{choice.name} can't be measured: {found['error']}")
    return {"index": choice.index, **found}


def _print(found: dict[str, Any]) -> None:
    print(f"{found['index']}  {found['device']}, driver {found['driver']}")
    _print_measurements(found)


def _print_measurements(found: dict[str, Any]) -> None:
    rows = [
        (row["name"], _shown(row["chosen"]), _microseconds(row["seconds"])) for row in found["measurements"]
    ]
    if rows:
        print(format_table(("", "chosen", "microseconds"), rows))
    print(f"kept in {found['file']}" if found["file"] else "not kept: -v says why")


def _microseconds(seconds: dict[str, float | None]) -> str:
    return ", ".join(
        f"{_shown(option)} " + ("wrong" if value is None else f"{value * 1e6:.1f}")
        for option, value in seconds.items()
    )


def _shown(option: str) -> str:
    """A variant by its suffix."""
    return option.removeprefix("_").replace("_", " ") or "plain"
