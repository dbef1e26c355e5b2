"""With --restart-workers a server goes on when ranks or hosts are lost; no token is lost or doubled."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster, Story, port_of
from tests.hosts.conftest import MakeHosts
from tests.hosts.running import Running
from tplaunch import LLM, SamplingParams

PROMPTS = ("Once upon a time", "The rabbit", "One day a boy")
NUM_TOKENS = 200
SOON = 60.0  # seconds until an error is said, on a busy machine
REPLAYED = 10.0  # from the end of a rank to the next token


@pytest.fixture(scope="module")
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


@pytest.fixture(scope="module")
def texts(model: Path) -> list[str]:
    """Returns one rank's texts."""
    sampling = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    with LLM(model=str(model), devices="numpy") as llm:
        return [output.outputs[0].text for output in llm.generate(list(PROMPTS), sampling)]


def serve(cluster: Cluster, model: Path) -> Running:
    options = ("--restart-workers", "--port", "0", "--parallel", str(len(PROMPTS)))
    return cluster.start_head("serve", model, *options, hosts=2)


def test_ranks_that_are_lost_twice_in_a_row(
    hosts: MakeHosts, tmp_path: Path, model: Path, texts: list[str]
) -> None:
    network = hosts(2)
    cluster = Cluster(network, tmp_path, timeout=10)
    head = serve(cluster, model)
    cluster.join(network[1], model.parent)
    port = port_of(head)
    with ExitStack() as stack:
        stories = [
            stack.enter_context(Story(network[0], port, prompt=prompt, max_tokens=NUM_TOKENS))
            for prompt in PROMPTS
        ]
        for number in (1, 0):  # a remote worker, and then a local one
            for story in stories:
                story.read(10)
            os.kill(cluster.worker(number), signal.SIGKILL)
            killed = time.monotonic()
            said = rf"host {number} \(host{number}\), in step \d+: rank {number} .*SIGKILL.* started again"
            head.stderr.wait_for(said, SOON)
            stories[0].read(10)
            assert time.monotonic() - killed < REPLAYED + SOON
        assert [story.read() for story in stories] == texts
        assert not any(story.failure for story in stories)


def test_another_host_takes_the_place_of_one_and_a_cable_comes_back(
    hosts: MakeHosts, tmp_path: Path, model: Path, texts: list[str]
) -> None:
    network = hosts(3)
    cluster = Cluster(network, tmp_path, timeout=10)
    head = serve(cluster, model)
    first = cluster.join(network[1], model.parent)
    port = port_of(head)
    with Story(network[0], port, prompt=PROMPTS[0], max_tokens=NUM_TOKENS) as story:
        story.read(10)
        os.kill(first.pid, signal.SIGKILL)
        network[1].was_killed = True
        head.stderr.wait_for(r"host 1 \(host1\), in step \d+: rank 1 is lost.* started again", SOON)
        another = cluster.join(network[2], model.parent, "--rejoin")
        another.stderr.wait_for("running rank 1", SOON)
        story.read(20)
        network.unplug(network[2])
        head.stderr.wait_for(r"host 1 \(host2\), in step \d+: rank 1 is lost.* started again", SOON)
        another.stderr.wait_for("said nothing for 4 s", SOON)
        network.plug(network[2])
        another.stderr.wait_for(r"(?s)running rank 1.*running rank 1", SOON)
        assert story.read() == texts[0]
        assert not story.failure


def test_losses_while_nothing_is_asked_for(
    hosts: MakeHosts, tmp_path: Path, model: Path, texts: list[str]
) -> None:
    network = hosts(2)
    cluster = Cluster(network, tmp_path, timeout=10)
    head = serve(cluster, model)
    joiner = cluster.join(network[1], model.parent)
    port = port_of(head)
    os.kill(cluster.worker(1), signal.SIGSTOP)
    head.stderr.wait_for(r"host 1 .*before the first step: rank 1 .*sign of life.* started again", SOON)
    with Story(network[0], port, prompt=PROMPTS[0], max_tokens=NUM_TOKENS) as story:
        assert story.read() == texts[0]
    os.kill(joiner.pid, signal.SIGKILL)
    network[1].was_killed = True
    head.stderr.wait_for(r"host 1 .*idle behind step \d+: rank 1 is lost.* started again", SOON)
    cluster.join(network[1], model.parent)
    with Story(network[0], port, prompt=PROMPTS[1], max_tokens=NUM_TOKENS) as story:
        assert story.read() == texts[1]
