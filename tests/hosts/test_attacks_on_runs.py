"""A stranger's host attacks every port of a run over two hosts: its texts and its memory stay the same."""

import re
from pathlib import Path

import psutil

from tests.hosts import attacks
from tests.hosts.attacker import attack
from tests.hosts.cluster import START, Cluster, Story, port_of
from tests.hosts.conftest import MakeHosts
from tests.hosts.namespaces import processes_in
from tests.hosts.network import Host
from tests.hosts.recording import recorded

MAX_GROWTH = 48 << 20  # bytes of any process of the run
TEXT = {"prompt": "Once upon a time", "max_tokens": 60}


def ports(host: Host) -> list[int]:
    """Returns where the host listens beyond its loopback."""
    listening = host.run("ss", "--listening", "--tcp", "--numeric", "--no-header").stdout
    found = re.findall(r"^LISTEN +\d+ +\d+ +(\S+):(\d+) ", listening, re.MULTILINE)
    return sorted(int(port) for address, port in found if not address.startswith("127."))


def memory(*hosts: Host) -> dict[int, int]:
    """Returns the resident bytes of all processes of a run, by process."""
    found = {}
    for host in hosts:
        for pid in processes_in(host.namespace):
            process = psutil.Process(pid)
            if "tplaunch" in " ".join(process.cmdline()):
                found[pid] = process.memory_info().rss
    return found


def test_a_run_goes_on(hosts: MakeHosts, tmp_path: Path, shared_dir: Path) -> None:
    network = hosts(3)
    head_host, other, stranger = network
    model = shared_dir / "models/stories260K-f32.gguf"
    cluster = Cluster(network, tmp_path)
    with recorded(network, head_host, tmp_path) as recording:
        head = cluster.start_head("serve", model, "--port", "0", hosts=2)
        joiner = cluster.join(other, model.parent)
        port = port_of(head)
        with Story(head_host, port, **TEXT) as story:
            expected = story.read()
    before = memory(head_host, other)
    targets = [(host, number) for host in (head_host, other) for number in ports(host)]
    assert len(targets) >= 4  # for joiners, for workers, and of each of two ranks
    for name in (*attacks.ONCE, *attacks.HOLDING):
        more: tuple[str | Path, ...] = ()
        if name == "replay":
            more = recording.streams, recording.frames
        elif name == "many-connections":
            more = ("500",)
        attacking = [attack(stranger, name, host, number, *more) for host, number in targets]
        with Story(head_host, port, **TEXT) as story:
            assert story.read() == expected, name
        for running in attacking:
            running.stdout.wait_for("done", 2 * START)
            running.end()
            assert running.stderr.all() == ""
        with Story(head_host, port, **TEXT) as story:
            assert story.read() == expected, name
    after = memory(head_host, other)
    assert after.keys() == before.keys()
    growth = {pid: after[pid] - before[pid] for pid in after}
    assert max(growth.values()) < MAX_GROWTH, growth
    assert "Traceback" not in head.text + joiner.text
