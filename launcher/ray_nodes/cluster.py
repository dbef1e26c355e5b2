"""Has a Ray cluster place the other hosts of a run, and start and restart what joins this one there.

Ray carries nothing of the run itself: an actor on each node starts the process that joins, by this run's key.
Which nodes have devices says the resource vulkan_device, or where no node declares it, a task on each.
"""

from __future__ import annotations

import argparse
import importlib
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tplaunch
from tplaunch.coordinator.curve import SECRET_BYTES
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import PLACED
from tplaunch.launcher.declared import declared_values
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.descriptions import cut
from tplaunch.launcher.hosts.keys import key_path, make_key_file, read_key_file
from tplaunch.launcher.lines import say
from tplaunch.launcher.ray_nodes.agent import NodeAgent, count_devices, devices_in_turn
from tplaunch.launcher.ray_nodes.options import RAY, RayOptions
from tplaunch.launcher.ray_nodes.sharing import NodeShare, share_out
from tplaunch.worker.folders import private_temporary

RESOURCE = "vulkan_device"
NODE_ID = "ray.io/node-id"  # a label that every node has
PROBE_SECONDS = 120.0
PLACE_SECONDS = 120.0  # for Ray to find room, and to start a process on each node
END_SECONDS = 15.0


@contextmanager
def placed_by_ray(options: argparse.Namespace) -> Iterator[None]:
    """Has Ray start the other hosts of a command, where --engine says so; they are gone at the end.

    The options are set to what the head of these hosts needs. Raises UsageError and RunError.
    """
    wanted = RayOptions(**declared_values(RayOptions, options))
    if wanted.engine != RAY:
        yield
        return
    if options.hosts > 1 or options.listen is not None or options.insecure:
        raise UsageError("--engine ray finds the hosts by itself; leave --hosts, --listen and --insecure out")
    ray = _import_ray()
    with ExitStack() as stack:
        _connect(ray)
        stack.callback(ray.shutdown)
        own = ray.get_runtime_context().get_node_id()
        found, is_declared = _num_devices(ray, options.devices)
        shares = share_out(found, own, wanted.num_ranks)
        devices = options.devices
        options.devices = devices_in_turn(devices, shares[0].num_ranks)
        if len(shares) > 1:
            key = stack.enter_context(_key(options))
            address = Address(ray.util.get_node_ip_address(), _free_port())
            options.hosts, options.listen, options.key = len(shares), str(address), str(key)
            options.others_come = PLACED
            settings = {
                "head": str(address),
                "secret": read_key_file(key).hex(),
                "devices": devices,
                "verbose": options.verbose,
            }
            stack.enter_context(_agents(ray, shares, settings, is_declared))
        yield


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'tplaunch[ray]' on every node") from None


def _connect(ray: Any) -> None:
    """Connects to this machine's cluster. Signals stay this program's: Ray would take SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address="auto", namespace=f"tplaunch-{secrets.token_hex(8)}", logging_level="warning")
    except ConnectionError:
        raise RunError(
            "--engine ray: there is no Ray cluster on this machine; `ray start --head` begins one, and"
            " `ray start --address HEAD:6379` has others take part"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _num_devices(ray: Any, devices: str) -> tuple[dict[str, int], bool]:
    """Returns how many devices each node has, by its id, and whether the nodes declare them."""
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    declared = {node: int(resources.get(RESOURCE, 0)) for node, resources in nodes.items()}
    if any(declared.values()):
        return declared, True
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    probe = ray.remote(num_cpus=0, max_retries=0)(count_devices)
    asked = {
        node: probe.options(
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(devices)
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=PROBE_SECONDS)
    found = {}
    for node, answer in asked.items():
        try:
            found[node] = int(ray.get(answer, timeout=0))
        except ray.exceptions.RayError as error:
            say(f"the Ray node {node[:8]} takes no part: {_reason(error)}")
    return found, False


@contextmanager
def _key(options: argparse.Namespace) -> Iterator[Path]:
    """Gives the key file of the options, or one for this run alone."""
    if options.key is not None:
        yield key_path(options.key)
        return
    folder = private_temporary("tplaunch-ray-")
    try:
        make_key_file(folder / "hosts.key", secrets.token_bytes(SECRET_BYTES))
        yield folder / "hosts.key"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _agents(
    ray: Any, shares: tuple[NodeShare, ...], settings: Mapping[str, object], is_declared: bool
) -> Iterator[None]:
    """Starts what joins on every node but this one, in a placement group that holds room on this one, too."""
    group_module = importlib.import_module("ray.util.placement_group")
    bundles = [
        {RESOURCE: share.num_ranks} if is_declared and share.num_ranks else {"memory": 1} for share in shares
    ]
    labels = [{NODE_ID: shares[0].node}] + [
        {} if is_declared else {NODE_ID: share.node} for share in shares[1:]
    ]
    group = group_module.placement_group(bundles, "STRICT_SPREAD", bundle_label_selector=labels)
    actors: list[Any] = []
    try:
        _await(ray, [group.ready()], "found no room for the ranks: are the devices in use?")
        actors += _start(ray, group, shares, settings)
        releases = _await(ray, [actor.release.remote() for actor in actors], "started no process there")
        own = tplaunch.__version__
        if others := {*releases} - {own}:
            raise RunError(f"Ray nodes have tplaunch {', '.join(others)}, and this one has {own}")
        counts = [share.num_ranks for share in shares if share.num_ranks]
        say(f"Ray has placed {sum(counts)} ranks on {len(counts)} node{'s' * (len(counts) > 1)}")
        yield
    finally:
        _end(ray, actors)
        group_module.remove_placement_group(group)


def _start(
    ray: Any, group: Any, shares: tuple[NodeShare, ...], settings: Mapping[str, object]
) -> Iterator[Any]:
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    agent = ray.remote(num_cpus=0, max_restarts=-1)(NodeAgent)
    for place, share in enumerate(shares[1:], 1):
        strategy = strategies.PlacementGroupSchedulingStrategy(group, place)
        yield agent.options(scheduling_strategy=strategy).remote({**settings, "num_ranks": share.num_ranks})


def _await(ray: Any, asked: list[Any], otherwise: str) -> list[Any]:
    try:
        found: list[Any] = ray.get(asked, timeout=PLACE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"Ray {otherwise} It was waited for {PLACE_SECONDS:g} s") from None
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray {otherwise} {_reason(error)}") from error
    return found


def _end(ray: Any, actors: list[Any]) -> None:
    """Has the processes end in order, then the actors: what Ray kills leaves by itself, but later."""
    ends = [actor.end.remote() for actor in actors]
    if ends:
        ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
    for actor in actors:
        ray.kill(actor)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return cut(lines[-1]) if lines else repr(error)
