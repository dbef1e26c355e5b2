"""The programs in examples/ that measure run: nothing else would notice that one has fallen behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.first_ten_minutes import GRACE_SECONDS, Step, run, steps
from tests.drivers import REPOSITORY
from tplaunch.launcher.words import parse_words

pytestmark = pytest.mark.unit


def test_the_first_ten_minutes_are_written_down(tmp_path: Path) -> None:
    """A few steps run, by NumPy, and one that can't be done says so."""
    wanted = ["--devices=numpy", "--tiny", "--only=devices,check,q8_0-2-ranks"]
    command = [sys.executable, "examples/first_ten_minutes.py", *wanted, f"--folder={tmp_path / 'found'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True)
    report = (tmp_path / "found" / "report.txt").read_text()
    assert report in done.stdout
    assert re.search(r"pp32 +[\d.]+ tokens/s\n +tg4 +[\d.]+ tokens/s, \d+% of the copy bandwidth", report), (
        report
    )
    assert "NumPy is what kernels are checked against" in report
    names = sorted(path.name for path in (tmp_path / "found").iterdir())
    bench = "03-bench-llama-160m-q8_0-2-ranks.json"
    assert names == ["00-devices.json", bench, "report.txt", "summary.json"]
    assert [
        result["ranks"] for result in json.loads((tmp_path / "found" / bench).read_text())["results"]
    ] == [2] * 3
    steps = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert [bool(step["problem"]) for step in steps] == [False, True, True, False]


def test_a_step_that_takes_too_long_is_ended() -> None:
    done = run(Step("sleep", ("serve", "--demo", "--devices=numpy", "--port=0"), 1.0), 1.0)
    assert done.problem.startswith("not done after 1 s") and done.found is None


# Stands in for tplaunch: says something, and what it has found by then where it is ended.
FOUND_SO_FAR = """
import signal, sys
def end(number, frame):
    print('{"complete": false}')
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("ready", file=sys.stderr)
signal.pause()
"""


def test_what_a_step_has_found_when_its_time_is_up_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tplaunch.py").write_text(FOUND_SO_FAR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    communicate, limits = subprocess.Popen.communicate, []

    def late(process: subprocess.Popen[str], timeout: float | None = None) -> Any:
        limits.append(timeout)
        if len(limits) == 1:
            assert process.stderr is not None and process.stderr.readline() == "ready\n"
            raise subprocess.TimeoutExpired("tplaunch", 1.0)
        return communicate(process, timeout=timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", late)
    done = run(Step("check", ("check",), 1.0), 1.0)
    assert (done.found, done.problem) == ({"complete": False}, "not done after 1 s")
    assert limits == [1.0, GRACE_SECONDS]


def test_the_commands_of_the_first_ten_minutes_are_known() -> None:
    """And need no file: each is parsed as the command line parses it."""
    wanted = steps("0", tiny=False)
    names = [step.name for step in wanted]
    assert names[:3] == ["devices", "check-speeds", "check-kernels"]
    assert names[6] == "bench-llama-3.1-8b-q4_k-1-rank"
    tuned = {name.removeprefix("tune-") for name in names[3:6]}
    assert all(any(shape in name for shape in tuned) for name in names[6:])
    assert {step.words[0] for step in wanted} == {"devices", "check", "tune", "bench"}
    assert all(parse_words(list(step.words)) for step in wanted)


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (
            ["measure_batch.py", "--devices=numpy", "--requests=3", "--tokens=2", "--repeat=1"],
            r"median ratio [\d.]+ of 1",
        ),
        (["measure_driver.py", "--requests=9", "--batch=4"], r"sampled: [\d.]+ us a token, 288 tokens of 9"),
        (["measure_driver.py", "--cancels", "--requests=400", "--batch=8"], r"[\d]{2} cancelled, 0 failed"),
        (
            ["measure_server.py", "--clients=4", "--tokens=4", "--repeat=1"],
            r"4 clients: [\d.]+ tokens/s streaming, .*ratio [\d.]+\n(.*\n)*batch 8: \d+ us a step",
        ),
        (
            ["measure_exchange.py", "--both", "--sizes=4096", "--calls=20"],
            r"4096 bytes: TCP ping-pong \d+ us\n  f32 one-shot: median(.*\n)*  q8 around a ring: median",
        ),
        (["measure_masks.py", "--vocabulary=3000", "--fields=3", "--tokens=99"], r"mask: p50 [\d.]+ ms, p99"),
        (["measure_sampling.py", "--vocabulary=500", "--rows=1,3"], r"logprobs +3 rows: rank +[\d.]+ us"),
    ],
)
def test_programs_that_measure_run(program: list[str], printed: str) -> None:
    command = [sys.executable, f"examples/{program[0]}", *program[1:]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True)
    assert re.search(printed, done.stdout), done.stdout
