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
STORY = ("--devices", "cpu", "-p", "Once upon a time", "-n", "8", "--temperature", "0", "--json")


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
