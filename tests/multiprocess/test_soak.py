"""The soak script on a few rounds, and what it complains of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples.soak import MIB, Round, growth, slowdown
from tests.command_line import CommandLine
from tests.models import write_llama

SHORT = ("--rounds", "3", "--prompts", "2", "--tokens", "8", "--context", "64", "--report-seconds", "0")


@pytest.fixture
def soak(tplaunch: CommandLine) -> CommandLine:
    tplaunch.program = (sys.executable, "-m", "examples.soak")
    tplaunch.validate = False  # no option of this script
    return tplaunch


@pytest.mark.parametrize(("devices", "num_processes"), [("0,0", 3), ("numpy", 2)])
def test_rounds_repeat(soak: CommandLine, tmp_path: Path, devices: str, num_processes: int) -> None:
    write_llama(tmp_path / "model.gguf")
    options = ("--devices", devices, *SHORT, "--max-slowdown", "1")  # a busy machine is no failure here
    lines = soak(*options, tmp_path / "model.gguf", check=True).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["round 1", "round 2", "round 3", "soak"]
    assert "passed" in lines[-1]
    resident = lines[0].split("ranks: ")[1].split(", ")
    assert len(resident) == num_processes and all(float(mebibytes) > 1 for mebibytes in resident)


def test_what_goes_wrong_is_said(soak: CommandLine, tmp_path: Path) -> None:
    result = soak("--devices", "numpy", *SHORT, tmp_path / "absent.gguf")
    assert result.returncode == 1
    assert "soak: FAILED: " in result.stdout and "absent.gguf" in result.stdout


def rounds_of(rates: list[float], resident: list[list[int]]) -> list[Round]:
    return [
        Round([[1]], 1 / rate, [mebibytes * MIB for mebibytes in of_round])
        for rate, of_round in zip(rates, resident, strict=True)
    ]


def test_growth_is_of_each_process_and_after_the_start() -> None:
    resident = [[10, 50, 50]] + [[40, 90, 90]] * 9 + [[40, 90, 107]]
    (sentence,) = growth(rounds_of([1.0] * 11, resident), 16)
    assert sentence == "rank 1 grew from 90.0 to 107.0 MiB; 16 more are allowed"
    assert not growth(rounds_of([1.0] * 11, resident), 17)


def test_slowdown_is_of_the_last_third_against_the_first() -> None:
    rates = [1.0, 10, 10, 10, 9, 9, 9, 8, 8, 8]
    rounds = rounds_of(rates, [[1]] * 10)
    assert slowdown(rounds, 0.15) == ["8.0 tokens/s at the end, 10.0 at the start: more than 15% slower"]
    assert not slowdown(rounds, 0.25)
    assert not slowdown(rounds[:3], 0.0)  # too few to say
