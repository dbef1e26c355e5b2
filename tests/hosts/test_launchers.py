"""One command on every host, which finds its place by the variables that srun and torchrun set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drivers import REPOSITORY
from tests.hosts.conftest import MakeHosts
from tests.hosts.network import Network

DEMO = REPOSITORY / "examples" / "demo-stories.gguf"
STORY = ("--devices", "numpy", "-p", "Once upon a time", "-n", "8", "--temperature", "0", "--json")


def slurm(network: Network, number: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_NODEID": str(number),
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "10.77.0.[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }


def torchrun(network: Network, number: int) -> dict[str, str]:
    rank = {"RANK": str(number), "GROUP_RANK": str(number), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return {**rank, "WORLD_SIZE": "2", "MASTER_ADDR": network[0].address, "MASTER_PORT": "29500"}


def test_a_plan_by_slurms_variables(hosts: MakeHosts, tmp_path: Path) -> None:
    """The second time what was measured on both hosts is known."""
    network, key = hosts(2), tmp_path / "hosts.key"
    assert network[0].tplaunch("keygen", key).returncode == 0
    plan = ("plan", "--key", key, "--devices", "numpy", "--context", "64", "--prompt-tokens", "32", "--json")
    found = []
    for _ in range(2):
        running = [host.start_tplaunch(*plan, DEMO, env=slurm(network, host.number)) for host in network]
        for one in running:
            assert one.wait(180) == 0, one.text
        assert running[1].stdout.all() == ""
        found.append(json.loads(running[0].stdout.all()))
    assert [way["way"] for way in found[0]["ways"]] == ["1 device", "tensor 2", "pipeline 2"]
    assert found[0]["measured"] == found[1]["measured"]
    alone = [each["ways"][0]["decode"]["tokens_per_second"] for each in found]
    assert alone[0] == alone[1]


@pytest.mark.parametrize("launcher", [slurm, torchrun])
def test_the_same_command_on_both(
    hosts: MakeHosts, tmp_path: Path, launcher: Callable[[Network, int], dict[str, str]]
) -> None:
    network = hosts(2)
    key = tmp_path / "hosts.key"
    made = network[0].tplaunch("keygen", key)
    assert made.returncode == 0, made.stderr
    alone = network[0].tplaunch(DEMO, *STORY, check=True)
    running = [
        host.start_tplaunch("--key", key, DEMO, *STORY, env=launcher(network, host.number))
        for host in network
    ]
    for one in running:
        assert one.wait(90) == 0, one.text
    assert json.loads(running[0].stdout.all())["tokens"] == json.loads(alone.stdout)["tokens"]
    assert running[1].stdout.all() == ""
    assert "this is host 1 of 2" in running[1].stderr.all()
