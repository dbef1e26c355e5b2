"""Finds this process's place among several hosts: by options, or by what a cluster's launcher has set.

Understood are Slurm's variables in a step (srun), torchrun's and those that others set in its form, and
OpenMPI's. It reads the mapping that it is given, and knows no socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.host_lists import expand_counts, expand_hosts

Environment = Mapping[str, str]
COUNT = re.compile("[0-9]{1,10}")  # a step's number has ten digits
# Steps that Slurm itself makes have the highest numbers: the batch script, the shell of salloc, and others.
FIRST_OWN_STEP = 0xFFFFFFF0
OPTIONS = "the command line"
ADVICE = "start one tplaunch on each host: it starts a process for each device by itself"


@dataclass(frozen=True)
class HostPlace:
    """The place of a process in a run over several hosts, of which number 0 is the head."""

    num_hosts: int
    number: int
    head: str | None  # the head's address; may be None at the head itself
    port: int | None  # of the head, where it was said
    source: str  # who said so

    @property
    def is_head(self) -> bool:
        return self.number == 0


def find_place(
    environment: Environment,
    num_hosts: int | None = None,
    number: int | None = None,
    head: str | None = None,
) -> HostPlace | None:
    """Returns the place that options and environment give; None for a run on this host alone.

    Options win over the environment: num_hosts is --nnodes (1 is a run on this host, whatever the environment
    has), number --node-rank, head --head. Raises UsageError, one sentence, for what contradicts itself.
    """
    if num_hosts == 1:
        if number:
            raise UsageError(f"--node-rank {number}: of --nnodes 1 there is only 0")
        return None
    is_told = num_hosts is not None and number is not None and (head is not None or number == 0)
    found = None if is_told else _from_environment(environment)
    if found is None and num_hosts is None:
        if number is not None or head is not None:
            given = "--head" if number is None else f"--node-rank {number}"
            raise UsageError(f"{given} goes with --nnodes, the number of hosts; no launcher has set it")
        return None
    if found is None:
        found = HostPlace(num_hosts or 0, _given(number, "--node-rank"), None, None, OPTIONS)
    if num_hosts not in (None, found.num_hosts):
        if number is None:
            raise UsageError(
                f"--nnodes {num_hosts}, but {found.source} has {found.num_hosts} hosts: give --node-rank, too"
            )
        found = HostPlace(num_hosts or 0, number, None, None, OPTIONS)
    return _checked(
        HostPlace(
            found.num_hosts,
            found.number if number is None else number,
            head or found.head,
            None if head else found.port,
            found.source if number is None else OPTIONS,
        )
    )


def _given(number: int | None, flag: str) -> int:
    if number is None:
        raise UsageError(f"{flag} is missing: which of the --nnodes hosts is this, from 0, the head?")
    return number


def _checked(place: HostPlace) -> HostPlace | None:
    if place.num_hosts == 1:
        return None
    if not 1 <= place.num_hosts <= MAX_RANKS:
        raise UsageError(
            f"{place.source} says {place.num_hosts} hosts; a run has 1 to {MAX_RANKS} with a rank each"
        )
    if not 0 <= place.number < place.num_hosts:
        raise UsageError(
            f"{place.source} says that this is host {place.number} of {place.num_hosts}, counted from 0"
        )
    if place.head is None and not place.is_head:
        raise UsageError(f"{place.source} does not say where host 0 is: give --head ADDRESS")
    return place


def _from_environment(environment: Environment) -> HostPlace | None:
    """Asks the innermost launcher first: torchrun or mpirun may themselves have been started by srun."""
    for reader in (_torchrun, _open_mpi, _slurm):
        place = reader(environment)
        if place is not None:
            return place
    return None


def _torchrun(environment: Environment) -> HostPlace | None:
    """Reads torchrun's variables; also without torchrun, as operators for Kubernetes set them."""
    head = environment.get("MASTER_ADDR")
    if not head or ("RANK" not in environment and "GROUP_RANK" not in environment):
        return None
    source = "torchrun's environment"
    local_size = _count(environment, "LOCAL_WORLD_SIZE", source, 1)
    if local_size > 1 or _count(environment, "LOCAL_RANK", source, 0) > 0:
        raise UsageError(f"{source} has {max(2, local_size)} processes on this host: {ADVICE}")
    ranks = _agreeing(environment, ("GROUP_RANK", "NODE_RANK", "RANK"), source)
    sizes = _agreeing(environment, ("GROUP_WORLD_SIZE", "NNODES", "WORLD_SIZE"), source)
    if sizes is None or ranks is None:
        raise UsageError(f"{source} has a RANK, but no WORLD_SIZE: give --nnodes and --node-rank")
    # torchrun's own store may listen on that port of the head; then ours is another.
    port = None
    if environment.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() != "true" and "MASTER_PORT" in environment:
        port = _count(environment, "MASTER_PORT", source)
        if not 1 <= port <= 65535:
            raise UsageError(f"{source} has MASTER_PORT={port}, which is no port")
    return HostPlace(sizes, ranks, head, port, source)


def _open_mpi(environment: Environment) -> HostPlace | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    source = "OpenMPI's environment"
    size = _count(environment, "OMPI_COMM_WORLD_SIZE", source)
    local_size = _count(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", source, 1)
    if local_size > 1:
        raise UsageError(f"{source} has {local_size} processes on this host: {ADVICE} (--map-by ppr:1:node)")
    rank = _count(environment, "OMPI_COMM_WORLD_RANK", source)
    return HostPlace(size, rank, environment.get("MASTER_ADDR") or None, None, source)


def _slurm(environment: Environment) -> HostPlace | None:
    """Reads a step's variables. An allocation's alone, as in salloc's shell or a script, mean nothing yet."""
    source = "Slurm's environment"
    if "SLURM_STEP_ID" not in environment or "SLURM_NODEID" not in environment:
        return None
    if _count(environment, "SLURM_STEP_ID", source) >= FIRST_OWN_STEP:
        return None
    names = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES")  # a step may have fewer nodes than its job
    size = next((_count(environment, name, source) for name in names if name in environment), 1)
    _refuse_tasks(environment, source)
    number = _count(environment, "SLURM_NODEID", source)
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if size == 1 or not listed:
        return HostPlace(size, number, None, None, source)
    try:
        hosts = expand_hosts(listed)
    except ValueError as error:
        raise UsageError(f"{source}: {error}; give --head ADDRESS, --nnodes and --node-rank") from None
    if len(hosts) != size:
        raise UsageError(
            f"{source} says {size} nodes, but lists {len(hosts)}, {listed:.60}: give --nnodes and --node-rank"
        )
    own = environment.get("SLURMD_NODENAME")
    if number < size and own and own in hosts and hosts[number] != own:
        raise UsageError(
            f"{source} says that this is node {number}, {hosts[number]}, and that it is {own}:"
            " give --nnodes and --node-rank"
        )
    return HostPlace(size, number, hosts[0], None, source)


def _refuse_tasks(environment: Environment, source: str) -> None:
    """Refuses several tasks on a node: each would be a run of its own, or the same host twice."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE") or "1"
    try:
        most = max(expand_counts(text))
    except ValueError as error:
        raise UsageError(f"{source}: {error}; give --nnodes and --node-rank") from None
    if most > 1 or _count(environment, "SLURM_LOCALID", source, 0) > 0:
        raise UsageError(
            f"{source} has {max(2, most)} tasks on a node: {ADVICE} (srun --ntasks-per-node=1), or make each"
            " task a run of its own by --nnodes 1"
        )


def _agreeing(environment: Environment, names: tuple[str, ...], source: str) -> int | None:
    """The number that all of these variables have which are set; None where none is."""
    found = {name: _count(environment, name, source) for name in names if name in environment}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name}={value}" for name, value in found.items())
        raise UsageError(f"{source} contradicts itself: {told}")
    return next(iter(found.values()), None)


def _count(environment: Environment, name: str, source: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UsageError(f"{source} lacks {name}: give --nnodes, --node-rank and --head")
    if not COUNT.fullmatch(text):
        raise UsageError(f"{source} has {name}={text!r:.40}, which is no number")
    return int(text)
