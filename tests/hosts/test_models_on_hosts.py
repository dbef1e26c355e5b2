"""Models of every kind on two and three hosts, with one and two ranks each, make one rank's tokens."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conformance.conftest import SEED, load_builder
from tests.hosts.cluster import START, Cluster
from tests.hosts.conftest import MakeHosts
from tests.hosts.network import Stalls

TOKENS = ",".join(map(str, range(3, 60)))  # a prompt that fills windows, and cuts chunks in the middle
RUN = (
    "--tokens",
    TOKENS,
    "-n",
    "12",
    "--temperature",
    "0",
    "--ignore-eos",
    "--json",
    "--prefill-chunk",
    "16",
)
LAYOUTS = {  # ranks of each host; models, and in how many stages their layers are
    (1, 1): (("mamba2-dense", 1), ("gemma3-dense", 2), ("qwen3next-moe", 2), ("llama-moe", 1)),
    (2, 1): (("qwen35moe-moe", 1), ("gpt-oss-moe", 1)),
    (2, 2): (("deepseek2-moe", 2), ("gemma2-dense", 1)),
    (1, 1, 1): (("qwen3moe-moe", 1), ("lfm2-dense", 2)),
}

Build = Callable[[Sequence[str]], Path]


@pytest.fixture(scope="module")
def build(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Writes models into a folder, which it returns."""
    builder, folder = load_builder(shared_dir), tmp_path_factory.mktemp("models")
    specs = builder.specs()

    def write(names: Sequence[str]) -> Path:
        for name in names:
            if not (folder / f"{name}.gguf").exists():
                builder.write(specs[name], folder / f"{name}.gguf", SEED)
        return folder

    return write


def tokens(output: str) -> list[int]:
    found: list[int] = json.loads(output)["tokens"]
    assert len(found) == 12
    return found


@pytest.mark.parametrize("ranks", LAYOUTS, ids=str)
def test_one_ranks_tokens(hosts: MakeHosts, tmp_path: Path, build: Build, ranks: tuple[int, ...]) -> None:
    folder = build([name for name, _ in LAYOUTS[ranks]])
    network = hosts(len(ranks))
    cluster = Cluster(network, tmp_path, ranks)
    joiners = [cluster.join(host, folder, "--rejoin") for host in network.hosts[1:]]
    for name, num_stages in LAYOUTS[ranks]:
        model = folder / f"{name}.gguf"
        head = cluster.start_head(model, *RUN, "--pipeline", str(num_stages))
        expected = tokens(network[0].tplaunch("--devices", "numpy", model, *RUN, check=True).stdout)
        assert head.wait(START) == 0, name
        assert tokens(head.stdout.all()) == expected, name
    for joiner in joiners:
        joiner.stderr.wait_for(rf"(?s)(?:the head at \S+ has ended.*?){{{len(LAYOUTS[ranks])}}}", START)
        joiner.process.terminate()
        assert joiner.wait(START) == 143


def test_tokens_over_slow_cables(hosts: MakeHosts, tmp_path: Path, shared_dir: Path) -> None:
    """The cables have 1 ms and 1 Gbit/s, and 20 ms with stalls of 300 ms now and then."""
    network = hosts(2)
    cluster = Cluster(network, tmp_path, (2, 1))
    model = shared_dir / "models/stories260K-f32.gguf"
    run = ("-p", "Once upon a time", "-n", "12", "--temperature", "0")
    cluster.join(network[1], model.parent, "--rejoin")
    expected = network[0].tplaunch("--devices", "numpy", model, *run, check=True).stdout
    network.link(rate="1gbit", delay=0.001)
    head = cluster.start_head(model, *run)
    assert head.wait(START) == 0
    assert head.stdout.all() == expected
    network.link(delay=0.02, stalls=Stalls(every=2.0, lasts=0.3))
    head = cluster.start_head(model, *run)
    assert head.wait(START) == 0
    assert head.stdout.all() == expected
