"""Ranks of several hosts sum: over cables that are slow or stall, and when a host dies or loses its cable."""

import signal

import pytest

from tests.hosts.conftest import MakeHosts
from tests.hosts.network import Stalls
from tests.hosts.summing import Summing

MACHINE = 10.0  # seconds that a busy machine may add to anything


@pytest.mark.parametrize("kind", ["shared-memory", "zmq-ring"])
@pytest.mark.parametrize("layout", [(0, 1), (0, 0, 1), (0, 1, 2)])
def test_hosts_sum(hosts: MakeHosts, layout: tuple[int, ...], kind: str) -> None:
    network = hosts(max(layout) + 1)
    summing = Summing([network[host] for host in layout], kind=kind)
    summing.run(100)
    network.link(rate="1gbit", delay=0.001)
    summing.run(50)
    network.link(delay=0.02, stalls=Stalls(every=1.0, lasts=0.3))
    summing.run(20)


@pytest.mark.parametrize("fault", ["killed", "frozen", "unplugged"])
def test_a_host_that_is_gone_is_named_in_time(hosts: MakeHosts, fault: str) -> None:
    network = hosts(3)
    summing = Summing(network.hosts, timeout=2)
    summing.run(10)
    match fault:
        case "killed":
            summing.ranks[1].send_signal(signal.SIGKILL)
        case "frozen":
            summing.ranks[1].send_signal(signal.SIGSTOP)
        case "unplugged":
            network.unplug(network[1])
    for rank in (0, 2):
        summing.tell(rank, 10)
    errors = [summing.error_of(rank, 2 + MACHINE) for rank in (0, 2)]
    assert all("of rank 1: " in error and "all-reduce 11" in error for error in errors), errors


def test_a_cable_that_comes_back_in_time_is_only_a_pause(hosts: MakeHosts) -> None:
    network = hosts(2)
    summing = Summing(network.hosts, timeout=60)
    summing.run(10)
    network.unplug(network[1])
    summing.begin(10)
    with pytest.raises(AssertionError, match=r"no .* within 0.5 s"):
        summing.await_all(0.5)
    network.plug(network[1])
    summing.await_all(30)


def test_connections_are_made_while_a_host_is_late(hosts: MakeHosts) -> None:
    """The second host's cable is out while all connect."""
    network = hosts(2)
    network.unplug(network[1])
    summing = Summing(network.hosts, connect=False)
    summing.begin(summing.endpoints)
    network.plug(network[1])
    summing.await_all(30)
    summing.run(10)
