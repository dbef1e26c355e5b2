"""Hosts that lie, or are lost while others are waited for: the rest of a run goes on, or hears why not."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.hosts.cluster import START, Cluster, complaint
from tests.hosts.conftest import MakeHosts

RUN = ("-p", "Once upon a time", "-n", "20", "--temperature", "0")
LIES = {
    "version": "install the same release on every host",
    "worker-version": "install the same release on every host",
    "much-memory": "does not understand it",
    "negative-memory": "does not understand it",
    "long-name": "does not understand it",
    "many-devices": "does not understand it",
    "no-devices": "does not understand it",
}


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def test_liars_are_told_why_they_are_refused(hosts: MakeHosts, tmp_path: Path, model: Path) -> None:
    network = hosts(3)
    head_host, other, liar = network
    cluster = Cluster(network, tmp_path)
    head = cluster.start_head(model, *RUN, hosts=2)
    head.stderr.wait_for("tplaunch join", START)
    lying = {
        kind: liar.start(sys.executable, "-m", "tests.hosts.liar", head_host.address, cluster.key, kind)
        for kind in LIES
    }
    for kind, why in LIES.items():
        assert lying[kind].wait(START) == 0
        assert re.search(f"Refused.*{why}", lying[kind].text), lying[kind].text
    joiner = cluster.join(other, model.parent)
    expected = head_host.tplaunch("--devices", "numpy", model, *RUN, check=True).stdout
    assert head.wait(START) == 0
    assert head.stdout.all() == expected
    assert joiner.wait(START) == 0


def test_a_host_that_never_starts_its_ranks_is_named(hosts: MakeHosts, tmp_path: Path, model: Path) -> None:
    network = hosts(2)
    cluster = Cluster(network, tmp_path, timeout=3)
    head = cluster.start_head(model, *RUN)
    liar = network[1].start(sys.executable, "-m", "tests.hosts.liar", network[0].address, cluster.key, "idle")
    liar.stdout.wait_for("StartRanks", START)
    assert head.wait(START) == 1
    said = complaint(head)
    assert re.search(r"host 1 \(host1\), starting: rank 1 did not start", said), said
    assert liar.wait(START) == 0 and "End" in liar.text


@pytest.mark.parametrize("fault", ["kill", "freeze", "unplug"])
def test_a_host_that_is_lost_while_others_are_waited_for(
    hosts: MakeHosts, tmp_path: Path, model: Path, fault: str
) -> None:
    network = hosts(3)
    cluster = Cluster(network, tmp_path)
    head = cluster.start_head(model, *RUN)
    joiner = cluster.join(network[1], model.parent)
    joiner.stderr.wait_for("this is host 1 of 3", START)
    match fault:
        case "kill":
            os.kill(joiner.pid, signal.SIGKILL)
            network[1].was_killed = True
        case "freeze":
            os.kill(joiner.pid, signal.SIGSTOP)
        case _:
            network.unplug(network[1])
    head.stderr.wait_for(
        r"host 1 \(host1\) (said nothing|closed its connection).*; another may take its place", 15
    )
    if fault == "freeze":
        joiner.send_signal(signal.SIGCONT)
    if fault != "kill":
        assert joiner.wait(START) == 1
        assert "the head at 10.77.0.1:5670" in complaint(joiner)
    network.plug(network[1])
    again = [cluster.join(host, model.parent) for host in network.hosts[1:]]
    expected = network[0].tplaunch("--devices", "numpy", model, *RUN, check=True).stdout
    assert head.wait(START) == 0
    assert head.stdout.all() == expected
    assert [one.wait(START) for one in again] == [0, 0]
