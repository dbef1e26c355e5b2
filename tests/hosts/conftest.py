"""Hosts for tests, a network namespace each. Where the kernel forbids it a test skips, or in CI fails."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drivers import IN_CI, distribution, driver_variables, find_lavapipe
from tests.hosts.namespaces import why_none
from tests.hosts.network import Network

MakeHosts = Callable[[int], Network]


@pytest.fixture
def hosts(device_cache: Path) -> Iterator[MakeHosts]:
    """Makes hosts: `head, other = hosts(2)`. Afterwards the test fails if one of them has something left."""
    if reason := why_none():
        if IN_CI and distribution() == "debian":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    lavapipe = find_lavapipe().manifest
    environment = {**os.environ, **(driver_variables(lavapipe) if lavapipe else {})}
    with ExitStack() as closing:

        def make(num_hosts: int) -> Network:
            network = Network(num_hosts, environment, device_cache)
            closing.callback(network.close)
            return network

        yield make
