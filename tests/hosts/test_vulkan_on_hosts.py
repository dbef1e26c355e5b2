"""Two hosts with a Vulkan device each tell one device's story, in every wire type and in stages."""

from pathlib import Path

from tests.drivers import REPOSITORY
from tests.hosts.cluster import START, Cluster
from tests.hosts.conftest import MakeHosts

DEMO = REPOSITORY / "tplaunch" / "demo-stories.gguf"
RUN = ("-p", "Once upon a time there was a fox", "-n", "16", "--temperature", "0", "--context", "64")


def test_one_devices_story(hosts: MakeHosts, tmp_path: Path, lavapipe_env: dict[str, str]) -> None:
    assert lavapipe_env  # or it skips; hosts have the same
    network = hosts(2)
    cluster = Cluster(network, tmp_path, devices="0")
    joiner = cluster.join(network[1], DEMO.parent, "--rejoin")
    expected = network[0].tplaunch("--devices", "0", DEMO, *RUN, check=True).stdout
    for way in (("--wire", "f32"), ("--pipeline", "2")):
        head = cluster.start_head(DEMO, *RUN, *way)
        assert head.wait(2 * START) == 0, way
        assert head.stdout.all() == expected, way
    rounded = cluster.start_head(DEMO, *RUN, "--wire", "bf16")
    assert rounded.wait(2 * START) == 0
    assert len(rounded.stdout.all()) > 20
    assert "Traceback" not in joiner.text
