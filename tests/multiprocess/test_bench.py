"""`tplaunch bench` on a tiny shape."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine

TESTS = ("--prefill", "5,20", "--decode", "4", "--at-context", "0,300", "--repeat", "3")


def bench(tplaunch: CommandLine, *options: str | Path) -> list[dict[str, Any]]:
    """The results of a run."""
    printed = tplaunch("bench", *options, *TESTS, "--json", check=True).stdout
    results: list[dict[str, Any]] = json.loads(printed)["results"]
    return results


def check_ledger(result: dict[str, Any]) -> None:
    """The kinds add up to the step, and none is less than nothing."""
    ledger = result["ledger"]
    assert ledger["steps"] >= 3
    for kinds in ledger["microseconds_by_rank"]:
        assert sum(kinds.values()) == pytest.approx(ledger["step_microseconds"], rel=0.05)
        assert min(kinds.values()) >= -0.01, kinds  # differences of floats


@pytest.mark.parametrize("device", ["0", "numpy"])
def test_every_test_on_every_number_of_ranks(tplaunch: CommandLine, device: str) -> None:
    results = bench(tplaunch, "--devices", device, "--shape", "tiny", "--ranks", "1,3")
    names = ["pp5", "pp20", "tg4", "tg4@300"]
    assert [(result["ranks"], result["test"]) for result in results] == [
        *((1, name) for name in names),
        *((3, name) for name in names),
    ]
    for result in results:
        rates = result["tokens_per_second"]
        assert len(rates) == 3 and len(result["devices"]) == result["ranks"]
        assert 0 < min(rates) <= result["median_tokens_per_second"] <= max(rates)
        assert (result["speed_up"] == 1) if result["ranks"] == 1 else (result["speed_up"] > 0)
        check_ledger(result)
        assert len(result["rooflines"]) == (result["ranks"] if result["kind"] == "decode" else 0)
        for roofline in result["rooflines"]:
            assert roofline["bytes_per_second"] > 0 and roofline["copy_bytes_per_second"] > 1e6
            assert roofline["reached"] > 0


@pytest.mark.parametrize(
    ("shape", "weight_type"),
    [("tiny", "f32"), ("tiny", "f16"), ("tiny", "q4_0"), ("tiny", "q8_0"), ("tiny-moe", "q8_0")],
)
def test_a_written_shape_is_measured_as_a_file(
    tplaunch: CommandLine, tmp_path: Path, shape: str, weight_type: str
) -> None:
    path = tmp_path / "tiny.gguf"
    tplaunch("bench", "--shape", shape, "--type", weight_type, "--write-gguf", path, check=True)
    results = bench(tplaunch, "--devices", "0,0", path)
    assert len(results) == 4 and all(result["speed_up"] is None for result in results)


def test_a_table_and_csv(tplaunch: CommandLine) -> None:
    options = ("bench", "--devices", "numpy", "--shape", "tiny", *TESTS)
    table = tplaunch(*options, "--ledger", check=True).stdout
    assert table.startswith("tiny Q8_0 with made-up weights: 2 layers, 64 wide, KV f16\n1 rank on numpy")
    assert "ranks     test  tokens/s" in table and "tg4@300 on 1 rank, mean microseconds of a step" in table
    assert "tg4 on 1 rank: " in table and "GB/s of a copy" in table
    rows = list(csv.DictReader(tplaunch(*options, "--csv", check=True).stdout.splitlines()))
    assert [row["test"] for row in rows] == ["pp5", "pp20", "tg4", "tg4@300"]
    assert all(float(row["median_tokens_per_second"]) > 0 for row in rows)


@pytest.mark.parametrize("device", ["0", "numpy", "cpu"])
def test_the_ledger_knows_what_the_device_computed(tplaunch: CommandLine, device: str) -> None:
    of_hosts = ("--waiting", "block")  # where devices exchange among themselves the host sees no all-reduces
    options = ("--devices", device, "--shape", "tiny", "--ranks", "1,2", "--ledger", *of_hosts)
    for result in bench(tplaunch, *options):
        check_ledger(result)
        for kinds in result["ledger"]["microseconds_by_rank"]:
            assert kinds["device"] > 0
            assert set(kinds) == {"device", "wait", "reduce", "submit", "host", "coordinator"}
        reduces = result["ledger"]["all_reduces"]
        assert (reduces is None) == (result["ranks"] == 1)
        if reduces:
            assert reduces["num_ranks"] == 2
            assert reduces["count"] == 2 * 2 * result["ledger"]["steps"]  # of two layers
            assert reduces["median_microseconds"] > 0 and reduces["min_bytes"] % 256 == 0


def check_trace(path: Path, num_tracks: int) -> None:
    """The Trace Event Format: metadata, and complete events, of which those of a track nest at most.

    Exchanges are within what the device computes, where devices make them among themselves.
    """
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and event["name"]
        if event["ph"] == "X":
            assert event["dur"] >= 0 and event["args"]["step"] >= 1
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["dur"]))
    assert len(tracks) == num_tracks
    for spans in tracks.values():
        around: list[float] = []  # the ends of those that an event is within
        for begin, length in sorted(spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1] <= begin + 0.01:
                around.pop()
            assert not around or begin + length <= around[-1] + 0.01
            around.append(begin + length)


def test_a_trace_of_every_number_of_ranks(tplaunch: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    bench(tplaunch, "--devices", "0", "--shape", "tiny", "--ranks", "1,2", "--trace", path)
    check_trace(path, num_tracks=(1 + 2) + (1 + 4))


def test_the_ledger_and_the_trace_of_a_run(tplaunch: CommandLine, tmp_path: Path) -> None:
    model, path = tmp_path / "tiny.gguf", tmp_path / "trace.json"
    tplaunch("bench", "--shape", "tiny", "--write-gguf", model, check=True)
    options = ("--devices", "0,numpy", "--tokens", "1,2,3", "-n", "4", "--ledger", "--trace", path, model)
    result = tplaunch("run", *options, "--json", check=True)
    assert "mean microseconds of a step, of 4 steps" in result.stderr
    assert len(result.stderr.splitlines()) >= 4
    check_ledger(json.loads(result.stdout))
    check_trace(path, num_tracks=1 + 4)
