"""A run over hosts in which something dies, freezes or loses its cable: named in time, nothing is left."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster, complaint
from tests.hosts.conftest import MakeHosts
from tests.hosts.running import Running

TIMEOUT = 5  # seconds, --timeout
MACHINE = 10.0  # that a busy machine may add to it
ENDLESS = ("-p", "Once upon a time", "--ignore-eos", "--context", "100000", "--temperature", "1")
LONG = ("-p", "Once upon a time there was a small fox. " * 24, "-n", "1", "--prefill-chunk", "4", "-v")
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


class Scene:
    """Two hosts with a rank each, and what can happen to them."""

    def __init__(self, cluster: Cluster, model: Path, *arguments: str) -> None:
        self.cluster = cluster
        self.head_host, self.far_host = cluster.network.hosts
        self.head = cluster.start_head(model, *arguments)
        self.joiner = cluster.join(self.far_host, model.parent)

    def process(self, name: str) -> int:
        match name:
            case "head":
                return self.head.pid
            case "joiner":
                return self.joiner.pid
            case "local-worker":
                return self.cluster.worker(0)
        return self.cluster.worker(1)

    def do(self, fault: str) -> None:
        how, what = fault.split(" ")
        if how == "unplug":
            self.cluster.network.unplug(self.far_host)
        else:
            process = self.process(what)
            os.kill(process, SIGNALS[how])
        if fault in ("kill joiner", "kill head"):
            (self.far_host if what == "joiner" else self.head_host).was_killed = True

    def end_in_time(self, running: Running) -> str:
        """Waits for a process that ends with 1; returns the last thing that it says."""
        assert running.wait(TIMEOUT + MACHINE) == 1
        assert "Traceback" not in running.text
        return complaint(running)


def check(fault: str, scene: Scene, stage: str) -> None:
    """Lets it happen; the head must say whose fault it is, and both must end."""
    scene.do(fault)
    name, rank = ("host 0 \\(host0\\)", 0) if "local" in fault else ("host 1 \\(host1\\)", 1)
    said = scene.end_in_time(scene.head)
    assert re.search(rf"{name}, {stage}: rank {rank} ", said), said
    assert re.search("killed by SIGKILL|gave no sign of life|said nothing for|closed its connection", said), (
        said
    )
    match fault:
        case "kill joiner":
            assert scene.joiner.wait(MACHINE) == -signal.SIGKILL
        case "freeze joiner":  # it goes on, and finds itself alone
            scene.joiner.send_signal(signal.SIGCONT)
            assert "the head at 10.77.0.1:5670" in scene.end_in_time(scene.joiner)
        case _:
            assert "the head at 10.77.0.1:5670" in scene.end_in_time(scene.joiner)


@pytest.mark.parametrize(
    "fault",
    [
        "kill joiner",
        "freeze joiner",
        "unplug joiner",
        "kill remote-worker",
        "freeze remote-worker",
        "kill local-worker",
        "freeze local-worker",
    ],
)
def test_while_text_is_made(hosts: MakeHosts, tmp_path: Path, model: Path, fault: str) -> None:
    scene = Scene(Cluster(hosts(2), tmp_path, timeout=TIMEOUT), model, *ENDLESS)
    scene.head.stdout.wait_for(r"(?s).{20}", 60)
    check(fault, scene, r"in step \d+")


@pytest.mark.parametrize("fault", ["kill remote-worker", "unplug joiner", "freeze joiner"])
def test_in_the_middle_of_an_exchange_of_a_prompt(
    hosts: MakeHosts, tmp_path: Path, model: Path, fault: str
) -> None:
    """With a cable this slow the ranks do nothing but wait for each other's sums."""
    network = hosts(2)
    network.link(delay=0.05)
    scene = Scene(Cluster(network, tmp_path, timeout=TIMEOUT), model, *LONG)
    scene.head.stderr.wait_for(r"\[rank 0\] .* ready: ", 60)
    check(fault, scene, r"in step \d+")


@pytest.mark.parametrize(
    "fault",
    ["kill remote-worker", "freeze remote-worker", "freeze local-worker", "kill joiner", "unplug joiner"],
)
def test_while_ranks_start(hosts: MakeHosts, tmp_path: Path, model: Path, fault: str) -> None:
    scene = Scene(Cluster(hosts(2), tmp_path, timeout=TIMEOUT), model, *ENDLESS)
    scene.joiner.stderr.wait_for("running rank 1", 60)
    check(fault, scene, "(starting|loading)")


@pytest.mark.parametrize("fault", ["kill head", "freeze head", "unplug joiner"])
def test_a_head_that_is_gone_ends_the_hosts_that_joined(
    hosts: MakeHosts, tmp_path: Path, model: Path, fault: str
) -> None:
    scene = Scene(Cluster(hosts(2), tmp_path, timeout=TIMEOUT), model, *ENDLESS)
    scene.head.stdout.wait_for(r"(?s).{20}", 60)
    worker = scene.cluster.worker(1)
    scene.do(fault)
    said = scene.end_in_time(scene.joiner)
    assert re.search(r"the head at 10\.77\.0\.1:5670 (said nothing for 4 s|closed)", said), said
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    if fault == "freeze head":
        scene.head.send_signal(signal.SIGCONT)
    if fault != "kill head":
        assert "host 1 (host1), in step" in scene.end_in_time(scene.head)


@pytest.mark.parametrize("fault", ["freeze joiner", "unplug joiner", "freeze remote-worker"])
def test_a_run_that_is_ended_while_a_host_is_gone(
    hosts: MakeHosts, tmp_path: Path, model: Path, fault: str
) -> None:
    """Nobody has noticed yet when the signal comes."""
    scene = Scene(Cluster(hosts(2), tmp_path, timeout=TIMEOUT), model, *ENDLESS)
    scene.head.stdout.wait_for(r"(?s).{20}", 60)
    scene.do(fault)
    scene.head.send_signal(signal.SIGINT)
    assert scene.head.wait(TIMEOUT + MACHINE) == 130
    assert "Traceback" not in scene.head.text
    if fault == "freeze joiner":
        scene.joiner.send_signal(signal.SIGCONT)
    scene.joiner.wait(TIMEOUT + MACHINE)
    assert "the head at 10.77.0.1:5670" in complaint(scene.joiner)
