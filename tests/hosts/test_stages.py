"""Stages on hosts of their own: a link carries one activation a step, and the tokens are one rank's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import WAITS, started, tokens_of
from tests.hosts.test_joining import RUN, alone

# Devices of the hosts that join; the head has one. With two ranks on the other host a stage is split there.
PLACES = {
    "a stage a host": (("numpy",), "2"),
    "three stages on three hosts": (("numpy", "numpy"), "3"),
    "two ranks in a stage": (("numpy,numpy",), "2"),
    "a stage that lies on two hosts": (("numpy,numpy,numpy",), "2"),
}


@pytest.mark.parametrize(("devices", "stages"), PLACES.values(), ids=PLACES)
def test_stages_on_hosts_compute_what_one_rank_does(
    hosts: MakeHosts, tmp_path: Path, devices: Sequence[str], stages: str
) -> None:
    network = hosts(len(devices) + 1)
    expected = alone(network[0])
    head, joiners = started(network, tmp_path, "--pipeline", stages, *RUN, devices=devices)
    assert tokens_of(head) == expected
    for joiner in joiners:
        assert joiner.wait(WAITS) == 0, joiner.text
        assert "Traceback" not in joiner.text


def test_the_link_carries_an_activation_a_token(hosts: MakeHosts, tmp_path: Path) -> None:
    """The demo model's rows have 256 float32; a step of one row adds a header, and what CURVE takes."""
    network = hosts(2)
    head, joiners = started(network, tmp_path, "--pipeline", "2", "--ledger", *RUN)
    assert len(tokens_of(head)) == 24 and joiners[0].wait(WAITS) == 0
    ledger = json.loads(head.stdout.all())["ledger"]
    first, second = ledger["sent_bytes_per_token_by_rank"]
    assert 1024 <= first <= 1024 + 100 and second == 0
    assert ledger["microseconds_by_rank"][1]["handover"] > 0
