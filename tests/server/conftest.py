"""A server for the tests of one file, over a fake session."""

from collections.abc import Iterator

import pytest

from tests.serving import Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running
