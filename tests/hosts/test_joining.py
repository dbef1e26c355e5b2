"""Hosts that join a run: the tokens are one rank's, and whoever must not take part is told why."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import (
    DEMO,
    PROMPT,
    WAITS,
    join_command,
    make_key,
    start_head,
    start_joiner,
    started,
    tokens_of,
)
from tests.hosts.namespaces import ip
from tests.hosts.network import Host

RUN = ("-n", "24", "--temp", "0", "--ignore-eos", "--json", "-p", PROMPT)


def alone(host: Host) -> list[int]:
    """The tokens of one rank."""
    found = host.tplaunch("--devices", "numpy", "-m", DEMO, *RUN, check=True)
    tokens: list[int] = json.loads(found.stdout)["tokens"]
    return tokens


def test_hosts_compute_what_one_rank_does(hosts: MakeHosts, tmp_path: Path) -> None:
    network = hosts(3)
    expected = alone(network[0])
    head, joiners = started(network, tmp_path, *RUN, devices=("numpy,numpy", "numpy"))
    assert tokens_of(head) == expected
    for joiner in joiners:
        assert joiner.wait(WAITS) == 0, joiner.text
        assert "has ended" in joiner.text and "Traceback" not in joiner.text
    assert "eth0 (10.77.0.1" in head.text and "eth0 (10.77.0.2" in head.text


def test_the_model_is_found_by_what_it_is(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, other = hosts(2)
    folder = tmp_path / "models" / "below"
    folder.mkdir(parents=True)
    (folder / "another name.bin").write_bytes(DEMO.read_bytes())
    (folder / "other.gguf").write_bytes(DEMO.read_bytes()[:-1])
    key = make_key(head_host, tmp_path)
    head = start_head(head_host, key, *RUN)
    joiner = start_joiner(other, head, "--model-dir", tmp_path / "models")
    assert len(tokens_of(head)) == 24
    assert joiner.wait(WAITS) == 0
    assert "fetch" not in joiner.text


def test_link_local_addresses_have_a_zone_on_each_host(hosts: MakeHosts, tmp_path: Path) -> None:
    """Two machines by one cable, without a network: the names of their interfaces differ."""
    head_host, other = hosts(2)
    ip("-n", other.namespace, "link", "set", "eth0", "down")
    ip("-n", other.namespace, "link", "set", "eth0", "name", "cable-7")
    ip("-n", other.namespace, "link", "set", "cable-7", "up")
    for host, name in ((head_host, "eth0"), (other, "cable-7")):
        address = f"fe80::{host.number + 1}/64"
        ip("-n", host.namespace, "-6", "address", "add", address, "dev", name, "nodad")
    expected = alone(head_host)
    head = start_head(head_host, make_key(head_host, tmp_path), *RUN, "--listen", "[fe80::1%eth0]")
    words = [word.replace("%eth0", "%cable-7") for word in join_command(head)]
    assert words[1] == "[fe80::1%cable-7]:5670"
    joiner = other.start_tplaunch(*words, "--devices", "numpy,numpy", "--model", DEMO)
    assert tokens_of(head) == expected
    assert joiner.wait(WAITS) == 0
    assert "% stands before the name" in head.text and "cable-7 (fe80::2%cable-7" in joiner.text


def test_a_stranger_is_told_and_leaves_the_others_running(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, stranger, other = hosts(3)
    key = make_key(head_host, tmp_path)
    head = start_head(head_host, key, *RUN)
    wrong = tmp_path / "wrong.key"
    stranger.tplaunch("keygen", wrong, check=True)
    address = join_command(head)[1]
    refused = stranger.start_tplaunch("join", address, "--key", wrong, "--devices", "numpy")
    keyless = stranger.start_tplaunch("join", address, "--devices", "numpy")
    insecure = stranger.start_tplaunch("join", address, "--insecure", "--devices", "numpy")
    assert refused.wait(WAITS) == 1 and "takes no connection with this key" in refused.text
    assert keyless.wait(WAITS) == 2 and "needs a key" in keyless.text
    assert insecure.wait(WAITS) == 1 and "only one of the two sides has one" in insecure.text
    assert "WARNING: --insecure" in insecure.text
    start_joiner(other, head)
    assert len(tokens_of(head)) == 24


def test_a_plain_socket_beyond_this_machine_is_refused(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, other = hosts(2)
    listen = f"{head_host.address}:5670"
    plain = head_host.tplaunch("--hosts", "2", "--listen", listen, "--devices", "numpy", DEMO, *RUN)
    assert plain.returncode == 2 and "needs a key" in plain.stderr
    head = head_host.start_tplaunch(
        *("--hosts", "2", "--listen", listen, "--insecure", "--devices", "numpy", "-m", DEMO, *RUN)
    )
    assert join_command(head) == ["join", listen, "--insecure"]
    joiner = start_joiner(other, head)
    assert len(tokens_of(head)) == 24 and "WARNING: --insecure" in head.text
    assert joiner.wait(WAITS) == 0


def test_ends_that_are_asked_for(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, other = hosts(2)
    key = make_key(head_host, tmp_path)
    head = start_head(head_host, key, *RUN, num_hosts=3)
    joiner = start_joiner(other, head)
    joiner.stderr.wait_for("this is host 1 of 3", WAITS)
    joiner.send_signal(signal.SIGTERM)
    assert joiner.wait(WAITS) == 128 + signal.SIGTERM
    head.stderr.wait_for("has left: it was ended there by SIGTERM; another may take its place", WAITS)
    again = start_joiner(other, head)
    again.stderr.wait_for("this is host 1 of 3", WAITS)
    head.send_signal(signal.SIGINT)
    assert head.wait(WAITS) == 128 + signal.SIGINT
    assert again.wait(WAITS) == 0 and "has ended" in again.text


def test_a_joiner_waits_for_a_head_and_for_the_next_one(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, other = hosts(2)
    key = make_key(head_host, tmp_path)
    address = f"{head_host.address}:5670"
    joiner = other.start_tplaunch(
        *("join", address, "--key", key, "--devices", "numpy", "--model", DEMO, "--rejoin")
    )
    joiner.stderr.wait_for("no head answers", WAITS)
    for _ in range(2):
        assert len(tokens_of(start_head(head_host, key, *RUN))) == 24
    joiner.send_signal(signal.SIGTERM)
    assert joiner.wait(WAITS) == 128 + signal.SIGTERM
    hasty = other.tplaunch("join", address, "--key", key, "--devices", "numpy", "--wait", "0.1")
    assert hasty.returncode == 1 and "did not answer within 0.1 s" in hasty.stderr
