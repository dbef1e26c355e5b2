"""Measures what this machine's processes take for what is between ranks: all-reduces, and steps' messages."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.serving.benchmark import Test, measure
from tplaunch.launcher.commands.collective_bench import run_ranks
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.fitting.kept import kept_numbers
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.launcher.predicting.samples import Sample
from tplaunch.launcher.processors import NUMPY
from tplaunch.launcher.session import start_session
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.worker.jobs.messages import CollectiveJob

COORDINATOR = "coordinator"
INSIDE, BETWEEN = "shared-memory", "zmq"
LOOPBACK = "127.0.0.1"
TIMEOUT_SECONDS = 60.0
NUM_CALLS, QUICK_PERCENT = 100, 10
MAX_WORK_BYTES = 32 << 20
PROBE_TOKENS, PROBE_CONTEXT, PROBES = 4, 64, 12


def all_reduce_cost(
    kind: str,
    num_ranks: int,
    small: int,
    large: int,
    wire: str = "f32",
    work_bytes: int = 0,
    anew: bool = False,
) -> Cost:
    """Returns what an all-reduce takes here, as measured before or now. Raises RunError."""
    arguments = (kind, num_ranks, small, large, wire, work_bytes)
    found = kept_numbers((), repr(arguments).encode(), anew, lambda: asdict(_measured_all_reduce(*arguments)))
    return Cost(**{name: value or 0.0 for name, value in found.items()})


def _measured_all_reduce(
    kind: str, num_ranks: int, small: int, large: int, wire: str, work_bytes: int
) -> Cost:
    """Returns it from its times at two sizes in bytes.

    Between hosts it goes over TCP, with the bytes' encryption and checks, but through no link. work_bytes:
    what a rank reads between two of them, after which its code and data come from memory again.
    """
    small, large = min(small, large), max(small, large)
    sizes = (small, large) if large > small else (small,)
    with socket_folder() as folder:
        job = CollectiveJob(
            kind,
            num_ranks,
            sizes,
            (NUM_CALLS,) * len(sizes),
            secrets.token_bytes(16),
            str(folder),
            TIMEOUT_SECONDS,
            wire,
            LOOPBACK if kind == BETWEEN else "",
            min(MAX_WORK_BYTES, work_bytes),
        )
        ranks = run_ranks(job)
    # The rank that comes last waits for none: what it takes is the exchange. Where other programs run a rank
    # often has to wait for a core, which hosts that only run a model don't: so the quick calls count.
    seconds = [
        float(np.percentile(np.array([rank[place] for rank in ranks]).min(axis=0), QUICK_PERCENT))
        for place in range(len(sizes))
    ]
    if len(seconds) == 1:
        return Cost(seconds[0])
    per_byte = max(0.0, (seconds[1] - seconds[0]) / (large - small))
    return Cost(max(0.0, seconds[0] - per_byte * small), per_byte)


def tiny_probe() -> tuple[RunConfig, Model]:
    """Returns a model that is next to nothing, where none of the devices is here."""
    config = RunConfig(model=RandomModel("tiny", "Q8_0"), devices=NUMPY)
    return config, open_model(config)


def sample_probe(model: Model, sample: Sample) -> Model:
    """Returns some layers of a model as one that can be run: its steps leave caches full of weights, too."""
    tensors = {tensor.name: tensor for tensor in sample.tensors(model.tensors)}
    return Model(Origin(), {}, tensors, sample.spec(model.spec))


def coordinator_seconds(
    config: RunConfig, model: Model, choices: Sequence[DeviceChoice], anew: bool = False
) -> float:
    """Returns what a step takes beside the ranks' own work: messages, sampling, scheduling.

    It is as measured before or now. Raises RunError.
    """
    what = repr((config.kv_type, config.activations, model.spec, sorted(model.tensors.items())))

    def measured() -> dict[str, float]:
        return {COORDINATOR: _measured_coordinator(config, model, choices)}

    return kept_numbers(choices, what.encode(), anew, measured)[COORDINATOR] or 0.0


def _measured_coordinator(config: RunConfig, model: Model, choices: Sequence[DeviceChoice]) -> float:
    """Returns it from a run of the model, which need be no whole one.

    It is the least of several tries, as others may use the cores, and of the ranks, as some wait for others.
    """
    config = RunConfig(
        model=config.model,
        devices=config.devices,
        context_length=PROBE_CONTEXT,
        kv_type=config.kv_type,
        activations=config.activations,
    )
    arrangement = arrange(config, model, choices)
    test = Test("decode", PROBE_TOKENS)
    found = []
    silence = contextlib.redirect_stderr(io.StringIO())  # nobody has asked for this run
    with silence, start_session(config, model, arrangement) as session:
        for _ in range(PROBES):
            ledger = measure(session.engine, session.requests, test, 1).ledger
            found.append(min(rank["coordinator"] for rank in ledger.ranks) * 1e-6)
    return max(0.0, min(found))
