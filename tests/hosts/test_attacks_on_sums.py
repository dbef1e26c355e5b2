"""A stranger's host attacks the sockets by which ranks sum: they go on, in the same memory."""

import resource
import socket
import struct
from pathlib import Path

import psutil
import pytest

from tests.hosts import attacks
from tests.hosts.attacker import attack
from tests.hosts.conftest import MakeHosts
from tests.hosts.network import Host
from tests.hosts.recording import recorded
from tests.hosts.summing import Summing

MAX_GROWTH = 24 << 20  # bytes of a rank
CONNECTION_BYTES = 6 << 10  # that ZeroMQ needs for one that has not proved itself yet
ATTACKS = [*attacks.ONCE, *attacks.HOLDING]


def memory(summing: Summing) -> list[int]:
    return [psutil.Process(rank.pid).memory_info().rss for rank in summing.ranks]


def socket_address(host: Host, port: int) -> bytes:
    return socket.inet_aton(host.address) + struct.pack(">H", port)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "replay"])
def test_ranks_go_on_with_the_same_sums(hosts: MakeHosts, name: str) -> None:
    network = hosts(3)
    summing = Summing(network.hosts[:2])
    summing.run(100)
    before = memory(summing)
    attacking = attack(network[2], name, network[0], summing.port(0))
    summing.run(100)
    attacking.stdout.wait_for("done", 120)
    summing.run(100)
    growth = [after - earlier for after, earlier in zip(memory(summing), before)]
    assert max(growth) < MAX_GROWTH + CONNECTION_BYTES * (name in attacks.HOLDING) * attacks.MOST_CONNECTIONS
    attacking.end()
    assert attacking.stderr.all() == ""


def test_a_rank_without_a_descriptor_left_goes_on(hosts: MakeHosts) -> None:
    network = hosts(3)
    summing = Summing(network.hosts[:2])
    summing.run(100)
    resource.prlimit(summing.ranks[0].pid, resource.RLIMIT_NOFILE, (64, 64))
    attacking = attack(network[2], "many-connections", network[0], summing.port(0), "100")
    attacking.stdout.wait_for("done", 120)
    summing.run(50)
    attacking.end()
    summing.run(50)


def test_what_was_said_before_is_not_heard_again(hosts: MakeHosts, tmp_path: Path) -> None:
    """The stranger has every frame of the connections that the ranks made, from the first on."""
    network = hosts(3)
    with recorded(network, network[0], tmp_path) as recording:
        summing = Summing(network.hosts[:2])
        summing.run(20)
    before = memory(summing)
    port = summing.port(0)
    assert any(
        record.startswith(socket_address(network[0], port)) for record in attacks.records(recording.streams)
    )
    attacking = attack(network[2], "replay", network[0], port, recording.streams, recording.frames)
    summing.run(100)
    attacking.stdout.wait_for("done", 120)
    summing.run(100)
    assert max(after - earlier for after, earlier in zip(memory(summing), before)) < MAX_GROWTH
    attacking.end()
    assert attacking.stderr.all() == ""
