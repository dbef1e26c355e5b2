"""A process's place among hosts: by Slurm's, torchrun's and OpenMPI's variables, and by options."""

from __future__ import annotations

import pytest

from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.environment import HostPlace, find_place
from tplaunch.launcher.hosts.host_lists import MAX_HOSTS, expand_counts, expand_hosts

STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_NNODES": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node[07-09]",
    "SLURM_STEP_NODELIST": "node[08-09]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "node09",
}
TORCHRUN = {
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a", ["a"]),
        ("a,b.lab", ["a", "b.lab"]),
        ("node[01-03,07]-ib,login", ["node01-ib", "node02-ib", "node03-ib", "node07-ib", "login"]),
        ("r[1-2]n[8-10]", ["r1n8", "r1n9", "r1n10", "r2n8", "r2n9", "r2n10"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
    ],
)
def test_lists_of_hosts(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        *("", "a,", "a[1-2", "a]1", "a[2-1]", "a[]", "a[x]", "a b", "$(reboot)", "a[1-2-3]", "a[[1]]"),
        *(
            f"a[0-{MAX_HOSTS}]",
            "a[0-4095]b[0-4095]c[0-4095]",
            "n" * (1 << 17),
            "a[" + "0-4095," * 9000 + "1]",
        ),
    ],
)
def test_no_lists_of_hosts(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        expand_hosts(text)


def test_tasks_by_node() -> None:
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    for text in ("", "2x3", "2(x)", "-1", "1(x4000),1(x4000)"):
        with pytest.raises(ValueError, match="tasks"):
            expand_counts(text)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (STEP, (2, 1, "node08", None)),
        ({**STEP, "SLURM_NODEID": "0", "SLURMD_NODENAME": "node08"}, (2, 0, "node08", None)),
        (TORCHRUN, (2, 1, "10.0.0.1", 29500)),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}, (2, 1, "10.0.0.1", None)),
        ({name: TORCHRUN[name] for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE")}, (2, 1, "10.0.0.1", None)),
        ({"MASTER_ADDR": "a", "NODE_RANK": "0", "RANK": "0", "NNODES": "3"}, (3, 0, "a", None)),
        (MPI, (2, 0, None, None)),
        ({**MPI, "OMPI_COMM_WORLD_RANK": "1", "MASTER_ADDR": "a"}, (2, 1, "a", None)),
        ({**STEP, **TORCHRUN, "RANK": "0", "GROUP_RANK": "0"}, (2, 0, "10.0.0.1", 29500)),
    ],
)
def test_launchers(environment: dict[str, str], place: tuple[int, int, str | None, int | None]) -> None:
    found = find_place(environment)
    assert found is not None
    assert (found.num_hosts, found.number, found.head, found.port) == place


WITHOUT_STEP = {name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        WITHOUT_STEP,  # the shell of salloc, or a batch script
        {**STEP, "SLURM_STEP_ID": "4294967290"},  # the shell of salloc as a step
        {**STEP, "SLURM_STEP_ID": "4294967291"},  # a batch script as one
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "RANK": "1"},
        {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"},
        {**MPI, "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_what_is_no_run_over_several_hosts(environment: dict[str, str]) -> None:
    assert find_place(environment) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, "4 tasks on a node"),
        ({**STEP, "SLURM_LOCALID": "1"}, "2 tasks on a node"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_STEP_NUM_NODES": "1"}, "--nnodes 1"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "many"}, "are no tasks by node"),
        ({**STEP, "SLURM_STEP_NODELIST": "node08"}, "says 2 nodes, but lists 1"),
        ({**STEP, "SLURM_STEP_NODELIST": "node[8"}, "no partner"),
        ({**STEP, "SLURMD_NODENAME": "node08"}, "node 1, node09, and that it is node08"),
        ({**STEP, "SLURM_NODEID": "x"}, "SLURM_NODEID='x'"),
        ({**STEP, "SLURM_NODEID": "2"}, "host 2 of 2"),
        ({**STEP, "SLURM_STEP_NUM_NODES": "99", "SLURM_STEP_NODELIST": "n[1-99]"}, "a run has 1 to"),
        ({**STEP, "SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": ""}, "give --head"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, "4 processes on this host"),
        ({**TORCHRUN, "LOCAL_RANK": "1"}, "processes on this host"),
        ({**TORCHRUN, "RANK": "0"}, "contradicts itself: GROUP_RANK=1, RANK=0"),
        ({**TORCHRUN, "WORLD_SIZE": "4"}, "contradicts itself: GROUP_WORLD_SIZE=2, WORLD_SIZE=4"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "no port"),
        ({"MASTER_ADDR": "a", "RANK": "1"}, "no WORLD_SIZE"),
        ({"MASTER_ADDR": "a", "RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "ppr:1:node"),
        ({**MPI, "OMPI_COMM_WORLD_RANK": "1"}, "does not say where host 0 is"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "lacks OMPI_COMM_WORLD_RANK"),
        ({**MPI, "OMPI_COMM_WORLD_SIZE": "0"}, "0 hosts"),
    ],
)
def test_contradictions(environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_place(environment)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_win() -> None:
    assert find_place(STEP, num_hosts=1) is None
    assert find_place({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, num_hosts=1) is None
    other = find_place(STEP, head="10.0.0.9")
    assert other is not None and (other.number, other.head) == (1, "10.0.0.9")
    told = find_place(STEP, num_hosts=3, number=2, head="10.0.0.9")
    assert told == HostPlace(3, 2, "10.0.0.9", None, "the command line")
    assert find_place({}, num_hosts=2, number=0) == HostPlace(2, 0, None, None, "the command line")
    # Neither broken variables nor those of another launcher matter where all is said.
    assert find_place({**STEP, "SLURM_NODEID": "x"}, num_hosts=2, number=0) is not None
    turned = find_place(TORCHRUN, number=0)
    assert turned is not None and turned.is_head and turned.port == 29500


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({}, {"num_hosts": 2}, "--node-rank is missing"),
        ({}, {"num_hosts": 2, "number": 1}, "give --head ADDRESS"),
        ({}, {"num_hosts": 2, "number": 2, "head": "a"}, "host 2 of 2"),
        ({}, {"num_hosts": 1, "number": 1}, "there is only 0"),
        ({}, {"num_hosts": 99, "number": 1, "head": "a"}, "a run has 1 to"),
        ({}, {"num_hosts": 0, "number": 0, "head": "a"}, "0 hosts"),
        ({}, {"number": 1}, "--node-rank 1 goes with --nnodes"),
        ({}, {"head": "a"}, "--head goes with --nnodes"),
        (STEP, {"num_hosts": 3}, "--nnodes 3, but Slurm's environment has 2 hosts"),
    ],
)
def test_options_that_contradict(environment: dict[str, str], options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_place(environment, **options)  # type: ignore[arg-type]
    assert words in str(caught.value)
