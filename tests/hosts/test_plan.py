"""`tplaunch plan` with joined hosts: devices and links are measured there, and every way is predicted."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.hosts.cluster import wait_for
from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import DEMO, WAITS, make_key, start_joiner
from tests.hosts.namespaces import processes_in
from tests.hosts.network import Host

RATE = 50  # Mbit/s


def test_joined_hosts_are_predicted_from_what_is_measured(hosts: MakeHosts, tmp_path: Path) -> None:
    network = hosts(2)
    network.link(rate=f"{RATE}mbit")
    head_host, other = network
    key = make_key(head_host, tmp_path)
    head = head_host.start_tplaunch(
        *("plan", "--hosts", "2", "--key", key, "--devices", "numpy", "--context", "64"),
        *("--prompt-tokens", "32", "--json", DEMO),
    )
    joiner = start_joiner(other, head, "--model-dir", tmp_path)  # which needs no model for that
    assert head.wait(2 * WAITS) == 0, head.text
    assert joiner.wait(WAITS) == 0 and "has ended" in joiner.text, joiner.text
    found = json.loads(head.stdout.all())
    assert [host["name"] for host in found["hosts"]] == ["host0", "host1"]
    link = found["hosts"][1]["link"]
    assert link == found["link"] and found["hosts"][0]["link"] is None
    assert link["bytes_per_second"] * 8e-6 == pytest.approx(RATE, rel=0.5)
    assert 0 <= link["latency"] < 0.05
    ways = {way["way"]: way for way in found["ways"]}
    assert list(ways) == ["1 device", "tensor 2", "pipeline 2"]
    assert all(way[kind]["tokens_per_second"] > 0 for way in ways.values() for kind in ("decode", "prefill"))
    assert ways["tensor 2"]["hosts"] == [0, 1] and found["advice"]


def test_nothing_stays_behind_where_a_measurement_ends_early(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, other = hosts(2)
    key = make_key(head_host, tmp_path)
    head = head_host.start_tplaunch(
        *("plan", "--hosts", "2", "--key", key, "--devices", "numpy", "--context", "64"),
        *("--prompt-tokens", "32", "--anew", DEMO),
    )
    joiner = start_joiner(other, head)
    wait_for(lambda: _job_on(other), "no process measures steps on the other host")
    head.send_signal(signal.SIGINT)
    assert head.wait(WAITS) == 128 + signal.SIGINT
    assert joiner.wait(WAITS) == 0 and "Traceback" not in joiner.text, joiner.text


def _job_on(host: Host) -> int | None:
    """A process on it that measures for the head, if there is one."""
    for pid in processes_in(host.namespace):
        with suppress(psutil.Error):
            if any(word.startswith("--cores=") for word in psutil.Process(pid).cmdline()):
                return pid
    return None
