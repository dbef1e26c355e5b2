"""The part that a machine has in a run, by options and by what Slurm, torchrun and OpenMPI have set."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.drivers import REPOSITORY
from tests.unit.test_host_environment import MPI, STEP, TORCHRUN
from tplaunch.launcher.commands.join import JoinConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model_options import run_config
from tplaunch.launcher.role import take_role
from tplaunch.launcher.words import parse_words

MODEL = REPOSITORY / "examples" / "demo-stories.gguf"
HEAD_STEP = {**STEP, "SLURM_NODEID": "0", "SLURMD_NODENAME": "node08"}


def given(*words: str) -> argparse.Namespace:
    return parse_words([*words, "-m", str(MODEL)])


def role(environment: dict[str, str], *words: str) -> JoinConfig | int:
    """How this machine joins, or else of how many it is the head."""
    options = given(*words)
    joining = take_role(options, environment)
    return run_config(options, MODEL).hosts if joining is None else joining


@pytest.mark.parametrize(
    ("environment", "words", "num_hosts"),
    [
        ({}, (), 1),
        ({}, ("--hosts", "2"), 2),
        ({}, ("--nnodes", "2", "--node-rank", "0"), 2),
        (HEAD_STEP, (), 2),
        (HEAD_STEP, ("--nnodes", "1"), 1),
        (STEP, ("--hosts", "1"), 1),
        ({name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"}, (), 1),
        (MPI, (), 2),
        ({**TORCHRUN, "RANK": "0", "GROUP_RANK": "0"}, (), 2),
    ],
)
def test_heads(environment: dict[str, str], words: tuple[str, ...], num_hosts: int) -> None:
    assert role(environment, *words) == num_hosts


@pytest.mark.parametrize(
    ("environment", "words", "head", "number"),
    [
        (STEP, (), "node08:5670", 1),
        (STEP, ("--head", "10.0.0.9:7000"), "10.0.0.9:7000", 1),
        (TORCHRUN, (), "10.0.0.1:29500", 1),
        ({**MPI, "OMPI_COMM_WORLD_RANK": "1"}, ("--head", "a"), "a:5670", 1),
        ({}, ("--nnodes", "3", "--node-rank", "2", "--head", "fe80::1"), None, 0),
        ({}, ("--nnodes", "3", "--node-rank", "2", "--head", "[fe80::1]:7"), "[fe80::1]:7", 2),
    ],
)
def test_joiners(environment: dict[str, str], words: tuple[str, ...], head: str | None, number: int) -> None:
    if head is None:
        with pytest.raises(UsageError, match="--head"):
            role(environment, *words)
        return
    joining = role(environment, *words, "--key", "k", "--devices", "cpu", "-v")
    assert joining == JoinConfig(
        head=head, key="k", devices="cpu", models=(MODEL,), node_rank=number, verbose=True
    )


def test_a_head_listens_where_the_others_dial() -> None:
    options = given("--nnodes", "2", "--node-rank", "0", "--head", "node1:7000")
    assert take_role(options, {}) is None
    assert options.listen == "0.0.0.0:7000"
    own = given("--nnodes", "2", "--node-rank", "0", "--head", "node1:7000", "--listen", "10.0.0.1:7000")
    assert take_role(own, {}) is None
    assert own.listen == "10.0.0.1:7000"
    usual = given("--nnodes", "2", "--node-rank", "0", "--head", "node1")
    assert take_role(usual, {}) is None
    assert usual.listen is None


def test_a_model_that_is_not_on_this_machine_is_not_looked_for() -> None:
    options = given()
    options.model = Path("/nowhere/m.gguf")
    joining = take_role(options, STEP)
    assert joining is not None and joining.models == ()


def test_what_is_the_heads_is_refused_elsewhere() -> None:
    with pytest.raises(UsageError, match="this is machine 1 of 2"):
        role(STEP, "--listen", "0.0.0.0")
    with pytest.raises(UsageError, match="tasks on a node"):
        role({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"})
