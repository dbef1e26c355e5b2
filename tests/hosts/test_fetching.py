"""A joining host fetches its part of a model from the head: at the link's speed, once, and on when broken."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.drivers import REPOSITORY
from tests.hosts.conftest import MakeHosts
from tests.hosts.network import Host
from tests.hosts.running import Running
from tests.models import make_spec, write_llama
from tests.patience import PATIENCE, SOON, wait_for

ENDS = (sys.executable, "-m", "tests.hosts.fetching_ends")
# About 57 MB, of which a rank of two reads 29.
MODEL = make_spec(
    embedding_length=1024, num_heads=16, num_kv_heads=16, key_length=64, value_length=64,
    feed_forward_length=2816, vocabulary_size=512, num_layers=1, rope={"dimension": 64},
)  # fmt: skip
SHARE_OF_LINK = 0.7
SOME_BYTES = 1_000_000
# A seventh of what two cores fetched that had ten processes each to run (docs/performance.md): the link
# decides, and not who else wants a core.
RATE = "100mbit"
DEMO = REPOSITORY / "examples" / "demo-stories.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fetched") / "m.gguf"
    write_llama(path, MODEL)
    return path


def serving(head: Host, model: Path) -> tuple[Running, tuple[str, str]]:
    """The head's end, with CURVE, and its address and port."""
    end = head.start(*ENDS, "serve", head.address, model)
    return end, (head.address, end.stdout.wait_for("port ([0-9]+)", PATIENCE)[1])


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def speeds(head: Host, joiner: Host, model: Path, cache: Path) -> tuple[float, float]:
    """Bytes per second of a fetch, and of as many plain bytes over TCP."""
    serving_end, endpoint = serving(head, model)
    fetched = joiner.run(*ENDS, "fetch", *endpoint, model, cache)
    assert fetched.returncode == 0, fetched.stderr
    num_bytes = int(number(r"got ([0-9]+)", fetched.stdout))
    again = joiner.run(*ENDS, "fetch", *endpoint, model, cache)
    assert again.returncode == 0, again.stderr
    assert "fetched" not in again.stdout
    serving_end.end()
    raw = head.start(*ENDS, "send", head.address, str(num_bytes))
    received = joiner.run(*ENDS, "receive", head.address, raw.stdout.wait_for("port ([0-9]+)", PATIENCE)[1])
    link = number(r"got ([0-9]+)", received.stdout) / number(r"took ([0-9.]+)", received.stdout)
    return num_bytes / number(r"took ([0-9.]+)", fetched.stdout), link


def test_a_fetch_uses_the_link_and_a_second_one_does_not(
    hosts: MakeHosts, model: Path, tmp_path: Path
) -> None:
    """A machine may stand still for a moment, as when another test starts: then it is measured again."""
    network = hosts(2)
    network.link(rate=RATE)
    for attempt in range(4):
        speed, link = speeds(network[0], network[1], model, tmp_path / str(attempt))
        print(f"fetched at {speed / 1e6:.0f} MB/s; the link passes {link / 1e6:.0f} MB/s")
        if speed >= SHARE_OF_LINK * link:
            return
    pytest.fail(f"fetched at {speed / link:.2f} of the link's speed")


STORY = ("--devices", "numpy", "-p", "Once upon a time", "-n", "8", "--temperature", "0", "--json")


def key_file(head: Host, folder: Path) -> Path:
    made = head.run(sys.executable, "-m", "tplaunch", "keygen", folder / "hosts.key")
    assert made.returncode == 0, made.stderr
    return folder / "hosts.key"


def start_head(head: Host, key: Path, *options: str) -> Running:
    return head.start_tplaunch("--hosts", "2", "--key", key, "--timeout", "5", *options, DEMO, *STORY)


def start_joiner(joiner: Host, head: Host, key: Path, cache: Path) -> Running:
    address = (f"{head.address}:5670", "--key", key, "--devices", "numpy")
    return joiner.start_tplaunch("join", *address, env={"XDG_CACHE_HOME": str(cache)})


def test_a_host_without_the_model_takes_part(hosts: MakeHosts, tmp_path: Path) -> None:
    head, joiner = hosts(2)
    key = key_file(head, tmp_path)
    alone = head.run(sys.executable, "-m", "tplaunch", DEMO, *STORY)
    for attempt in range(2):
        leading = start_head(head, key)
        joining = start_joiner(joiner, head, key, tmp_path / "cache")
        assert leading.wait(PATIENCE) == 0, leading.text
        assert joining.wait(PATIENCE) == 0, joining.text
        tokens = json.loads(leading.stdout.all())["tokens"]
        assert tokens == json.loads(alone.stdout)["tokens"]
        assert ("of the model from the head" in joining.stderr.all()) == (attempt == 0)


def fetched_bytes(cache: Path) -> int:
    """The bytes of a model that is being fetched which have come, as the disk counts them."""
    return sum(path.stat().st_blocks * 512 for path in cache.glob("tplaunch/models/*/part-*"))


@pytest.mark.parametrize("victim", ["joiner", "head"])
def test_a_fetch_that_loses_its_other_end(hosts: MakeHosts, tmp_path: Path, victim: str) -> None:
    network = hosts(2)
    head, joiner = network
    key = key_file(head, tmp_path)
    network.link(rate="4mbit")  # of the model's 3.4 MB, so that there is time to end it
    leading = start_head(head, key)
    joining = start_joiner(joiner, head, key, tmp_path / "cache")
    joining.stderr.wait_for("fetched from the head", PATIENCE)
    wait_for(lambda: fetched_bytes(tmp_path / "cache") > SOME_BYTES)
    lost, left = (joining, leading) if victim == "joiner" else (leading, joining)
    lost.send_signal(signal.SIGKILL)
    assert left.wait(5 + SOON) == 1
    if victim == "joiner":
        lost_words = r"host 1 \(host1\), fetching rank 1's part of the model: (said nothing for|closed its)"
        assert re.search(lost_words, left.stderr.all())
    else:
        lost_words = rf"the head at {head.address}:5670 (said nothing for|closed its)"
        assert re.search(lost_words, left.stderr.all())
    network.link()
    leading, joining = start_head(head, key), start_joiner(joiner, head, key, tmp_path / "cache")
    assert leading.wait(PATIENCE) == 0, leading.text
    fetched = float(joining.stderr.wait_for(r"fetched ([0-9.]+) MB", PATIENCE)[1])
    assert fetched < 3.3  # of 3.4, and what was being written when it broke off comes again
