"""The speed that `tplaunch plan` predicts of two joined hosts, against that of a run, on the same link.

Both are measured in turn. Other programs only make both slower: a step has some ten messages, each of which
wakes another process, and few steps are undisturbed. So the best step counts, and the best of two turns.
Where others keep the cores busy all the time, no more can be said than that it is not far off. It measures
rather than tests, so it runs where TPLAUNCH_MEASURE is set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import DEMO, make_key, start_head, start_joiner
from tests.hosts.network import Network

WAITS = 180.0
MOST_LOAD = 2.0  # programs for each core that want it, beyond which a step is never undisturbed
WITHIN, NOT_FAR_OFF, MAX_TURNS = 0.15, 0.5, 2
WAYS = {"tensor 2": (), "pipeline 2": ("--pipeline", "2")}  # and how a run is told


@pytest.mark.skipif("TPLAUNCH_MEASURE" not in os.environ, reason="it measures: TPLAUNCH_MEASURE=1 runs it")
@pytest.mark.timeout(900)
def test_decode_over_a_slow_link_is_as_predicted(hosts: MakeHosts, tmp_path: Path) -> None:
    skip_where_cores_are_busy()
    network = hosts(2)
    network.link(rate="1gbit", delay=0.001)
    key = make_key(network[0], tmp_path)
    predicted: dict[str, list[float]] = {way: [] for way in WAYS}
    measured: dict[str, list[float]] = {way: [] for way in WAYS}
    ratios: dict[str, float] = {}
    for _ in range(MAX_TURNS):
        for way, speed in plan(network, key).items():
            predicted[way].append(speed)
        for way, words in WAYS.items():
            measured[way].append(decode(network, key, *words))
        ratios = {way: max(predicted[way]) / max(measured[way]) for way in WAYS}
        if is_within(WITHIN, ratios):
            return
    assert is_within(NOT_FAR_OFF, ratios), (predicted, measured)
    pytest.skip(f"on a busy machine predicted {predicted} and measured {measured}: not within {WITHIN:.0%}")


def is_within(part: float, ratios: dict[str, float]) -> bool:
    """Tells whether all are at most so far from 1, up or down."""
    return all(max(ratio, 1 / ratio) <= 1 + part for ratio in ratios.values())


def skip_where_cores_are_busy() -> None:
    load, most = os.getloadavg()[0], MOST_LOAD * len(os.sched_getaffinity(0))
    if load > most:
        pytest.skip(f"other programs keep the cores busy: a load of {load:.1f}, more than {most:g}")


def plan(network: Network, key: Path) -> dict[str, float]:
    """Returns the tokens per second that are predicted of each way over both hosts, measured anew."""
    head = network[0].start_tplaunch(
        *("plan", "--hosts", "2", "--key", key, "--devices", "numpy", "--context", "64"),
        *("--prompt-tokens", "32", "--anew", "--json", DEMO),
    )
    joiner = start_joiner(network[1], head)
    assert head.wait(WAITS) == 0, head.text
    assert joiner.wait(WAITS) == 0, joiner.text
    found: dict[str, Any] = json.loads(head.stdout.all())
    return {way["way"]: way["decode"]["tokens_per_second"] for way in found["ways"] if way["way"] in WAYS}


def decode(network: Network, key: Path, *words: str) -> float:
    """Returns the tokens per second that one text reaches, the best of several."""
    head = start_head(
        network[0],
        key,
        *("bench", "--prefill", "none", "--decode", "1", "--at-context", "0", "--repeat", "400", "--json"),
        *words,
    )
    joiner = start_joiner(network[1], head)
    assert head.wait(WAITS) == 0, head.text
    assert joiner.wait(WAITS) == 0, joiner.text
    (result,) = json.loads(head.stdout.all())["results"]
    return float(result["max_tokens_per_second"])
