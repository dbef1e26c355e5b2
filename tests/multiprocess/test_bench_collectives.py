"""`tplaunch bench-collectives`, with small sums."""

import importlib.util
import json

from tests.command_line import CommandLine
from tplaunch import collectives


def test_every_collective_at_every_size(tplaunch: CommandLine) -> None:
    result = tplaunch("bench-collectives", "--ranks", "2,3", "--sizes", "4,16K", "--json", check=True)
    results = json.loads(result.stdout)["results"]
    measured = [(each["collective"], each["ranks"], each["bytes"]) for each in results]
    for kind in (*collectives.KINDS, "shared-memory two-phase", "zmq two-phase"):
        for num_ranks in (2, 3):
            assert (kind, num_ranks, 4) in measured and (kind, num_ranks, 16384) in measured
    for each in results:
        assert 0 < each["median_microseconds"] <= each["p99_microseconds"]
        assert each["gigabytes_per_second"] > 0 and each["calls"] >= 20


def test_a_table_and_what_is_missing(tplaunch: CommandLine) -> None:
    result = tplaunch("bench-collectives", "--ranks", "2", "--sizes", "4K", check=True)
    assert result.stdout.split()[:5] == ["collective", "ranks", "size", "median", "us"]
    assert "4 KiB" in result.stdout
    has_torch = importlib.util.find_spec("torch") is not None
    assert has_torch or "gloo is not measured: torch is not installed" in result.stderr
