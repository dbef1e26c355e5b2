"""Predictions from what is measured: the jobs, the exchanges and the messages of this machine, in short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

import tplaunch.launcher.predicting.measuring
from tplaunch.launcher.cli import main
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.predicting.machine import (
    BETWEEN,
    INSIDE,
    all_reduce_cost,
    coordinator_seconds,
    tiny_probe,
)

TINY = ("plan", "--shape", "tiny", "--devices", "numpy", "--context", "64", "--prompt-tokens", "32")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is measured a few times only."""
    monkeypatch.setattr(tplaunch.launcher.predicting.measuring, "POINT_SECONDS", 0.0)


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> Mapping[str, Any]:
    assert main([*TINY, "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_two_hosts_like_this_one_are_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    found = predicted(capsys, "--link", "20ms,1Mbit")
    ways = {way["way"]: way for way in found["ways"]}
    assert list(ways) == ["1 device", "tensor 2", "pipeline 2"]
    assert all(way[kind]["tokens_per_second"] > 0 for way in ways.values() for kind in ("decode", "prefill"))
    assert ways["tensor 2"]["decode"]["limit"] == "link latency"
    layers = len(range(*ways["1 device"]["layers"][0]))
    assert ways["tensor 2"]["decode"]["seconds"]["latency"] == pytest.approx((2 * layers + 2) * 0.02)
    assert found["advice"].startswith("One device alone is faster: ")
    measured = found["measured"]
    assert 0 < measured["coordinator"] < 1 and 0 < measured["all_reduce_between_hosts"]["seconds"] < 1


def test_ranks_of_one_host_are_measured_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                *TINY[:3],
                "--devices",
                "numpy,numpy",
                "--context",
                "64",
                "--speed",
                "-v",
                "--prompt-tokens",
                "32",
            ]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert "tensor 2, 1" in output and "all-reduce of 2 ranks of a host" in output
    assert max(map(len, output.splitlines())) <= 80


def test_an_all_reduce_has_a_part_for_each_byte() -> None:
    cost = all_reduce_cost(INSIDE, 2, 1024, 1 << 20)
    assert 0 <= cost.seconds < 0.1 and 0 <= cost.seconds_per_byte < 1e-6
    assert all_reduce_cost(INSIDE, 2, 1024, 1024).seconds_per_byte == 0


def test_an_all_reduce_between_hosts_is_measured_with_its_wire() -> None:
    assert 0 < all_reduce_cost(BETWEEN, 2, 4096, 4096, "q8").seconds < 1


def test_a_step_has_messages() -> None:
    config, model = tiny_probe()
    assert 1e-6 < coordinator_seconds(config, model, [DeviceChoice(None, "numpy")]) < 0.5
