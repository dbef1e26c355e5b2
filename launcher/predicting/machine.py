"""Measures what this machine's processes take for what is between ranks: all-reduces, and steps' messages."""

from __future__ import annotations

import contextlib
import io

from tplaunch.coordinator.serving.benchmark import Test, measure
from tplaunch.launcher.commands.collective_bench import measure_collective
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.devices import CPU, select_devices
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.model import open_model
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.launcher.session import start_session

INSIDE, BETWEEN = "shared-memory", "zmq-ring"
TIMEOUT_SECONDS = 60.0
PROBE = RandomModel("tiny", "Q8_0")
PROBE_TOKENS, PROBE_CONTEXT, PROBES = 32, 64, 5


def all_reduce_cost(kind: str, num_ranks: int, small: int, large: int) -> Cost:
    """Returns what an all-reduce takes here, from its times at two sizes in bytes. Raises RunError."""
    small, large = min(small, large), max(small, large)
    sizes = (small, large) if large > small else (small,)
    seconds = [
        latency.median_microseconds * 1e-6
        for latency in measure_collective(kind, num_ranks, sizes, TIMEOUT_SECONDS)
    ]
    if len(seconds) == 1:
        return Cost(seconds[0])
    per_byte = max(0.0, (seconds[1] - seconds[0]) / (large - small))
    return Cost(max(0.0, seconds[0] - per_byte * small), per_byte)


def coordinator_seconds(num_ranks: int) -> float:
    """Returns what a step takes beside the ranks' own work: messages, sampling, scheduling. Raises RunError.

    From a run of a model that is next to nothing: the least of several tries, as others may use the cores,
    and of the ranks, as some wait for others meanwhile.
    """
    devices = ",".join([CPU] * num_ranks)
    config = RunConfig(model=PROBE, devices=devices, context_length=PROBE_CONTEXT)
    model = open_model(config)
    arrangement = arrange(config, model, select_devices(devices))
    test = Test("decode", PROBE_TOKENS)
    found = []
    silence = contextlib.redirect_stderr(io.StringIO())  # nobody has asked for this run
    with silence, start_session(config, model, arrangement) as session:
        for _ in range(PROBES):
            ledger = measure(session.engine, session.requests, test, 1).ledger
            found.append(min(rank["coordinator"] for rank in ledger.ranks) * 1e-6)
    return max(0.0, min(found))
