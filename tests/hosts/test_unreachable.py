"""Joining from where no head can be: a sentence, at once or after the time that was given."""

from __future__ import annotations

import signal

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import WAITS
from tests.patience import PATIENCE


def test_a_head_that_cannot_be_reached(hosts: MakeHosts) -> None:
    (host,) = hosts(1)
    words = ("--insecure", "--devices", "numpy", "--wait", "0.1")
    nobody = host.tplaunch("join", "10.77.0.9", *words)
    assert nobody.returncode == 1 and "did not answer within 0.1 s; --wait allows more" in nobody.stderr
    nowhere = host.tplaunch("join", "198.51.100.7", *words)
    assert nowhere.returncode == 1 and "can't be reached from here: Network is unreachable" in nowhere.stderr
    nameless = host.tplaunch("join", "no..such", *words)
    assert nameless.returncode == 2 and "the address is not found" in nameless.stderr


def test_a_host_without_a_network_waits_for_one(hosts: MakeHosts) -> None:
    (host,) = hosts(1)
    joiner = host.start_tplaunch("join", "198.51.100.7", "--insecure", "--devices", "numpy", "--rejoin")
    joiner.stderr.wait_for("can't be reached from here: [^\n]*; this host goes on asking", WAITS)
    joiner.send_signal(signal.SIGTERM)
    assert joiner.wait(PATIENCE) == 128 + signal.SIGTERM
