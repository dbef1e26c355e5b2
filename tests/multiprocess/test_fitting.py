"""Split files and splits that fit, from the command line to the text."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_bad_input import check_refusal
from tests.split_files import Split

GENERATE = ("--tokens", "1,5,47,9", "-n", "12", "--temperature", "0", "--ignore-eos", "--json")


def tokens(tplaunch: CommandLine, *options: str | Path) -> list[int]:
    found: list[int] = json.loads(tplaunch(*GENERATE, *options, check=True).stdout)["tokens"]
    assert len(found) == 12
    return found


def plan(tplaunch: CommandLine, *options: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tplaunch("plan", "--json", *options, check=True).stdout)
    return found


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(tmp_path, 3)


def test_a_model_in_parts_says_what_the_whole_does(tplaunch: CommandLine, split: Split) -> None:
    expected = tokens(tplaunch, "--devices", "0,numpy", split.whole)
    assert tokens(tplaunch, "--devices", "0,numpy", split.path(1)) == expected


def test_parts_on_a_medium_that_is_not_written_to(tplaunch: CommandLine, split: Split) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in split.folder.iterdir())
    for path in split.folder.iterdir():
        path.chmod(0o444)
    split.folder.chmod(0o555)
    try:
        tokens(tplaunch, "--devices", "0,numpy", split.path(0))
        after = sorted((path.name, path.stat().st_mtime_ns) for path in split.folder.iterdir())
        assert after == before
    finally:
        split.folder.chmod(0o755)


@pytest.mark.parametrize("slower", ["numpy", "cpu"])
def test_shares_by_speed(tplaunch: CommandLine, split: Split, slower: str) -> None:
    """The shares are those of the plan, are kept, and change no token."""
    model = split.whole
    expected = tokens(tplaunch, "--devices", "numpy", model)
    options = ("--devices", f"0,{slower}", "--tensor-split", "auto", model)
    first = plan(tplaunch, *options)
    assert first["split"].endswith(": by speed")
    result = tplaunch(*GENERATE, "-v", *options, check=True)
    assert json.loads(result.stdout)["tokens"] == expected
    assert f"tplaunch: {first['split']}\n" in result.stderr
    assert plan(tplaunch, *options) == first


def test_a_context_is_chosen_and_said(tplaunch: CommandLine, split: Split) -> None:
    longer = ("--override-kv", "llama.context_length=int:900000", "--max-memory", "0=20MiB", split.whole)
    largest = plan(tplaunch, "--devices", "0,0", *longer)["largest_context"]
    assert 1000 < largest < 900_000
    result = tplaunch(*GENERATE, "--devices", "0,0", *longer, check=True)
    said = [line for line in result.stderr.splitlines() if line.startswith("tplaunch: context")]
    start = f"tplaunch: context {largest}; largest context that fits: {largest} of the 900000 that the model"
    assert len(said) == 1 and said[0].startswith(start)
    assert ": device 0 (" in said[0] and said[0].endswith(" has no room for more")
    result = tplaunch(*GENERATE, "--devices", "0,0", "--context", "500", *longer, check=True)
    assert f"tplaunch: context 500; largest context that fits: {largest} of" in result.stderr
    found = plan(
        tplaunch, "--devices", "0,numpy", "--override-kv", "llama.context_length=int:9000", split.whole
    )
    assert (found["context"], found["largest_context"], found["limited_by"]) == (9000, 9000, None)
    assert found["prefill_chunk"] == 256


def test_a_plan_for_another_machine(tplaunch: CommandLine, split: Split) -> None:
    """For devices that are not here, with the memory that the user says they have."""
    options = ("--devices", "geforce,7", split.whole)
    table = tplaunch("plan", *options, check=True).stdout
    assert "largest context that fits: not known: there is no Vulkan device 'geforce'" in table
    numbered = ("--devices", "6,7", "--max-memory", "6=1GiB,7=1MiB", split.whole)
    found = plan(tplaunch, *numbered, "--override-kv", "llama.context_length=int:100000")
    assert found["context"] == found["largest_context"] < 100_000
    assert found["limited_by"].startswith("device 7")


def test_what_does_not_fit_is_refused_before_a_worker_starts(tplaunch: CommandLine, split: Split) -> None:
    for devices, limit, says in (
        ("cpu,cpu", "cpu=100KB", "the plan does not fit: this machine's memory would hold 0."),
        ("0", "0=0.1MiB", "but may hold 0.1 MiB (--max-memory); give it less with --tensor-split (auto"),
        ("0", "1=1GiB", "--max-memory 1: the ranks are on device 0"),
        ("0", "0=1", "the plan does not fit: device 0 (llvmpipe"),
        ("cpu", "0=1GiB", "--max-memory 0: the ranks are on the CPU; cpu stands for it"),
        ("cpu", "cpu=lots", "--max-memory cpu=lots: 'lots' is no size; device indices with sizes are needed"),
    ):
        options = (split.whole, *GENERATE[:4], "--max-memory", limit)
        check_refusal(tplaunch, *options, devices=devices, says=says)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "llama.context_length=8192",
            "KEY=TYPE:VALUE is needed with a TYPE of int, float, bool, str",
        ),
        ("llama.context_length=int:many", "'many' is no int; such as llama.context_length=int:8192"),
        ("llama.block_count=int:9", "the model has no tensor 'blk.2."),
    ],
)
def test_overrides_that_cant_be(tplaunch: CommandLine, split: Split, override: str, says: str) -> None:
    check_refusal(tplaunch, split.whole, *GENERATE[:4], "--override-kv", override, says=says)
