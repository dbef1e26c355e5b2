"""Tests the tests' own network: hosts are apart, cables are as slow as asked, and all of it is removed."""

import os
import signal
import statistics
import sys
from pathlib import Path

import pytest

from tests.hosts.conftest import MakeHosts
from tests.hosts.namespaces import PLACE, PREFIX, add_namespace, ip, own_mark, remove_abandoned
from tests.hosts.network import Host, Network, Stalls
from tests.patience import PATIENCE

TALK = Path(__file__).with_name("talk.py")
PORT = 5001


def talk(asking: Host, answering: Host, num_megabytes: int = 1) -> tuple[list[float], float]:
    """Returns seconds of each of ten round trips, and bits per second of sending so much."""
    other = answering.start(sys.executable, "-I", TALK, "answer", str(PORT))
    other.stdout.wait_for("listening", 20)
    ended = asking.run(sys.executable, "-I", TALK, "ask", answering.address, str(PORT), str(num_megabytes))
    assert ended.returncode == 0, ended.stderr
    *round_trips, seconds = map(float, ended.stdout.split())
    assert other.wait(PATIENCE) == 0
    return round_trips, 8 * num_megabytes * (1 << 20) / seconds


def test_hosts_are_machines_of_their_own(hosts: MakeHosts) -> None:
    network = hosts(3)
    names = [host.run("cat", "/proc/sys/kernel/hostname").stdout.strip() for host in network]
    assert names == ["host0", "host1", "host2"]
    for host in network:
        links = host.run("ls", "/sys/class/net").stdout.split()
        assert sorted(links) == ["eth0", "lo"]
    talk(network[0], network[2])
    talk(network[2], network[1])
    assert network[0].tplaunch("--version").returncode == 0


def test_a_delay_and_a_rate_are_what_was_asked_for(hosts: MakeHosts) -> None:
    network = hosts(2)
    asking, answering = network
    network.link(delay=0.02)
    round_trips, _ = talk(asking, answering)
    assert min(round_trips) >= 0.04 and statistics.median(round_trips) < 0.06
    network.link(rate="100mbit")
    round_trips, speed = talk(asking, answering, 8)
    assert statistics.median(round_trips) < 0.02
    assert 50e6 < speed < 130e6  # a rate's burst comes on top
    network.link()
    _, speed = talk(asking, answering, 64)
    assert speed > 1e9


def test_a_gigabit_gets_through_the_slow_switch(hosts: MakeHosts) -> None:
    network = hosts(2)
    network.link(rate="1gbit", delay=0.001)
    round_trips, speed = talk(network[0], network[1], 64)
    assert min(round_trips) >= 0.002
    assert speed > 0.5e9  # half of it where the machine is busy


def test_stalls_hold_everything_back_and_lose_nothing(hosts: MakeHosts) -> None:
    network = hosts(2)
    network.link(delay=0.01, stalls=Stalls(every=0.2, lasts=0.1))
    round_trips, _ = talk(network[0], network[1], 8)
    assert max(round_trips) > 0.06  # ten of them take as long as one stall at least
    assert min(round_trips) >= 0.02


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_a_cable_that_is_out_lets_nothing_through(hosts: MakeHosts, delay: float) -> None:
    network = hosts(2)
    network.link(delay=delay)
    asking, answering = network
    network.unplug(answering)
    ended = asking.run(
        sys.executable, "-c", f"import socket; socket.create_connection(({answering.address!r}, 1), 1)"
    )
    assert "timed out" in ended.stderr or "No route" in ended.stderr
    network.plug(answering)
    talk(asking, answering)


def test_output_is_kept_and_waited_for(hosts: MakeHosts) -> None:
    (host,) = hosts(1)
    running = host.start("sh", "-c", "echo number 17; exec cat")
    assert running.stdout.wait_for(r"number (\d+)", 20)[1] == "17"
    with pytest.raises(AssertionError, match=r"no 'number 18' within 0.01 s:\nnumber 17"):
        running.stdout.wait_for("number 18", 0.01)
    with pytest.raises(AssertionError, match=r"still running after 0.01 s:\nnumber 17"):
        running.wait(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait(PATIENCE) == -signal.SIGKILL
    with pytest.raises(AssertionError, match="it ended without 'number 18'"):
        running.stdout.wait_for("number 18", 20)


def test_a_process_that_outlives_its_parent_is_found_and_ended(hosts: MakeHosts, tmp_path: Path) -> None:
    network = hosts(2)
    orphan = "setsid sleep 1000 >/dev/null 2>&1 & echo $! >pid"
    network[1].start("sh", "-c", f"cd {tmp_path}; {orphan}").wait(PATIENCE)
    with pytest.raises(AssertionError, match=r"host1: .*left behind:\nprocess .*: sleep 1000"):
        network.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_all_namespaces_are_removed(hosts: MakeHosts) -> None:
    network = hosts(2)
    names = [host.namespace for host in network] + [network.switch]
    assert all((PLACE / name).exists() for name in names)
    network.close()
    assert not any((PLACE / name).exists() for name in names)


def test_what_a_killed_test_run_has_left_is_removed(hosts: MakeHosts) -> None:
    hosts(1)
    abandoned = f"{PREFIX}-1-17-0-host0"  # a process with this id lives, but began at another time
    ip("netns", "add", abandoned)
    own = add_namespace("own")
    remove_abandoned()
    assert not (PLACE / abandoned).exists()
    assert (PLACE / own).exists()
    ip("netns", "delete", own)


def test_what_fails_in_the_middle_is_removed(hosts: MakeHosts, tmp_path: Path) -> None:
    hosts(1)
    before = own_namespaces()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
        patch.setattr(Network, "_cable", fail)
        Network(2, dict(os.environ), tmp_path)
    assert own_namespaces() == before


def own_namespaces() -> set[Path]:
    """Returns those of this process: other tests run beside it."""
    return set(PLACE.glob(f"{own_mark()}-*"))


def fail(self: Network, host: Host) -> None:
    raise RuntimeError("on purpose")
