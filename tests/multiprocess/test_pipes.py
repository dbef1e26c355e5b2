"""Readers that go: of the text, which ends the run; of standard error, which changes nothing; and ranks."""

import contextlib
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_failures import ENDLESS, await_text, wait_for


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def test_who_reads_no_further_ends_the_run(tplaunch: CommandLine, model: Path) -> None:
    """As `| head -1` does."""
    process = tplaunch.start("--devices", "cpu,cpu", model, *ENDLESS)
    await_text(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    lines = [line for line in process.stderr.read().splitlines() if not line.startswith("tplaunch: ")]
    assert (process.wait(30), lines) == (0, [])
    assert list((tplaunch.folder / "state").glob("tplaunch/*")) == []


@pytest.mark.parametrize("arguments", [("--help",), ("models",), ("run", "--help")])
def test_nobody_reads_at_all(tplaunch: CommandLine, arguments: tuple[str, ...]) -> None:
    process = tplaunch.start(*arguments)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(30)) == ("", 0)


@pytest.mark.parametrize("options", [(), ("-v",), ("--ledger",)])
def test_the_text_comes_where_nobody_reads_standard_error(
    tplaunch: CommandLine, model: Path, options: tuple[str, ...]
) -> None:
    arguments = ("--devices", "cpu,cpu", model, "-p", "Once", "-n", "20", "--temperature", "0")
    expected = tplaunch(*arguments, check=True).stdout
    process = tplaunch.start(*arguments, *options)
    assert process.stdout is not None and process.stderr is not None
    process.stderr.close()
    assert process.stdout.read() == expected != ""
    assert process.wait(30) == 0


def test_an_error_has_its_code_where_nobody_reads_it(tplaunch: CommandLine) -> None:
    process = tplaunch.start("--devices", "cpu", "absent.gguf", "-p", "Once")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(30) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_of_a_bench_that_dies_is_named(tplaunch: CommandLine, rank: int) -> None:
    process = tplaunch.start("bench-collectives", "--ranks", "3", "--sizes", "16M")
    wait_for(lambda: len(bench_ranks(tplaunch)) == 3)
    os.kill(bench_ranks(tplaunch)[rank], signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    sentence = f"tplaunch: rank {rank} of shared-memory ended without a result: killed by SIGKILL"
    assert any(line.startswith(sentence) for line in stderr.splitlines())


def bench_ranks(tplaunch: CommandLine) -> dict[int, int]:
    """Process ids by rank, of the ranks that have been told their job."""
    found = {}
    for process in tplaunch.living_processes():
        with contextlib.suppress(psutil.Error):
            for word in process.cmdline():
                if word.startswith("--bench-collective="):
                    found[json.loads(word.partition("=")[2])["rank"]] = process.pid
    return found
