"""Processes that end in ways that nobody expects of them, and what is said of that."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tplaunch.coordinator.framing import framed
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher import check_job, devices, job_answers
from tplaunch.launcher.check_job import DeviceReport, check_device
from tplaunch.launcher.commands.check import CheckConfig
from tplaunch.launcher.device_job import run_device_job
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason, ending
from tplaunch.running_clock import RunningClock
from tplaunch.worker.jobs.messages import CheckBegun, CheckEnded, CheckJob, CheckList, Failed, Speed, SpeedJob

GPU = DeviceChoice(0, "gpu 0", on_cpu=False)
CONFIG = CheckConfig("0")
COUNT = CheckList("gpu 0", "1.0", 2)
BEGIN = CheckBegun("k", "f", "", "o")
RIGHT = CheckEnded(0.0, 1.0)
JOB = SpeedJob(on_cpu=False, anew=True)
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_every_signal_has_a_name(number: int) -> None:
    assert end_reason(-number).startswith("killed by ")


def test_what_a_signal_may_mean() -> None:
    assert "memory ran out" in end_reason(-signal.SIGKILL)
    assert "disk is full" in end_reason(-signal.SIGBUS)
    assert end_reason(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert end_reason(-40) == "killed by signal 40"
    assert end_reason(3) == "exit code 3"


def test_the_last_words_are_told() -> None:
    assert ending(1, "first\nlast\n") == "ended with code 1: last"
    assert ending(1, "") == "ended with code 1: no message"
    assert ending(-signal.SIGSEGV, "") == "was killed by SIGSEGV"
    assert ending(-signal.SIGABRT, "terminate called\n") == "was killed by SIGABRT: terminate called"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a device's process run this program instead."""

    def run(program: str) -> None:
        command = [sys.executable, "-c", program]
        monkeypatch.setattr("tplaunch.launcher.job_answers.job_command", lambda choice: (command, {}))
        monkeypatch.setattr("tplaunch.launcher.device_job.job_command", lambda choice: (command, {}))
        monkeypatch.setattr(devices, "job_words", lambda: command)

    return run


def saying(*messages: Any, then: bytes = b"") -> str:
    """A program that answers with these messages, and these bytes behind them."""
    return f"import os; os.write(1, {b''.join(map(framed, messages)) + then!r})"


def checked() -> DeviceReport:
    report = DeviceReport(GPU.index, GPU.word, GPU.name)
    check_device(CONFIG, GPU, report, lambda report: None)
    return report


def test_a_driver_that_ends_the_process_as_if_all_were_well_is_not_right(job: Callable[[str], None]) -> None:
    job("")
    report = checked()
    assert not report.is_right and "ended as if all were well" in report.error
    with pytest.raises(RunError, match="measuring gpu 0 ended with code 0: no message"):
        run_device_job(CONFIG, GPU, JOB, Speed, 60)
    assert devices.list_devices().reason.startswith(
        "listing the Vulkan devices ended with code 0: no message; VK_DRIVER_FILES"
    )


def test_so_is_the_kernel_in_which_it_does_so(job: Callable[[str], None]) -> None:
    job(saying(COUNT, BEGIN))
    report = checked()
    assert [outcome.problem for outcome in report.outcomes] == ["its process ended as if all were well"] * 2
    job(saying(COUNT, BEGIN, RIGHT, BEGIN, RIGHT))
    assert checked().is_right


def test_after_a_crash_kernels_are_compiled_one_by_one(
    job: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the one is blamed that did it, not the one that was checked meanwhile."""
    jobs: list[bool] = []

    def noted(start: int, ahead: bool, options: RankOptions) -> CheckJob:
        jobs.append(ahead)
        return CheckJob(start, ahead, options)

    monkeypatch.setattr(check_job, "CheckJob", noted)
    crashed = tmp_path / "crashed"
    job(
        f"import pathlib, sys; crashed = pathlib.Path({str(crashed)!r})\n"
        f"if crashed.exists(): {saying(COUNT, BEGIN, RIGHT, BEGIN, RIGHT)}; sys.exit()\n"
        f"crashed.touch()\n{saying(COUNT, BEGIN)}; import signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    assert checked().is_right and jobs == [True, False]


def test_a_driver_that_crashes_is_told_by_its_signal(job: Callable[[str], None]) -> None:
    job(CRASH)
    assert checked().error == "gpu 0 can't be checked: its process was killed by SIGSEGV"
    with pytest.raises(RunError, match="measuring gpu 0 was killed by SIGSEGV"):
        run_device_job(CONFIG, GPU, JOB, Speed, 60)
    reason = devices.list_devices().reason
    assert reason.startswith("listing the Vulkan devices was killed by SIGSEGV; VK_DRIVER_FILES")
    assert "install" not in reason  # a driver that crashes is there


def test_a_stop_takes_no_time_from_a_check(
    job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps by hours while the process says nothing."""
    hours = iter(range(0, 10**9, 5000))
    monkeypatch.setattr(job_answers, "RunningClock", lambda: RunningClock(lambda: next(hours)))
    answers = saying(COUNT, BEGIN, RIGHT, BEGIN, RIGHT)
    job(f"import select; select.select([], [], [], 0.5); {answers}")
    assert checked().is_right


def test_a_check_that_hangs_is_given_up(job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_job, "SILENT_SECONDS", 0.2)
    job("import signal; signal.pause()")
    assert checked().error == "gpu 0 can't be checked: no answer within 0 s"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("print('a remark')", "no answer that can be read: no message begins with b'a remark"),
        (saying(BEGIN), "no answer that can be read: a message of the unknown type 'CheckBegun'"),
        (saying(Speed(1.0), then=b"\xf7tp"), "ends inside a message, 3 bytes after its beginning"),
        (saying(Speed(1.0), Speed(2.0)), "measuring gpu 0 gave 2 answers, where one was expected"),
        (saying(Failed("it is hot")), "gpu 0 can't be measured: it is hot"),
    ],
)
def test_what_is_no_answer_to_a_job(job: Callable[[str], None], program: str, sentence: str) -> None:
    job(program)
    with pytest.raises(RunError, match=sentence):
        run_device_job(CONFIG, GPU, JOB, Speed, 60)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (
            "print('a remark')",
            "no answer that can be read: no message begins with b'a remark",
        ),
        (
            saying(COUNT, then=b"\xf7tp"),
            "no answer that can be read: it ends inside a message",
        ),
        (saying(COUNT, RIGHT), "its process sent CheckEnded before CheckBegun"),
        (saying(COUNT, then=b"\xf7tp") + "; " + CRASH, "its process was killed by SIGSEGV"),
        (saying(Failed("there is no device")), "there is no device"),
    ],
)
def test_what_is_no_answer_to_a_check(job: Callable[[str], None], program: str, sentence: str) -> None:
    job(program)
    assert sentence in checked().error


def test_an_answer_that_breaks_off_blames_the_kernel(job: Callable[[str], None]) -> None:
    job(saying(COUNT, BEGIN, then=b"\xf7tp1"))
    assert all("it ends inside a message" in outcome.problem for outcome in checked().outcomes)


def test_what_a_driver_writes_to_standard_output_is_no_answer() -> None:
    program = """
import os
from tplaunch.worker.process import keep_standard_output
os.write(1, b"before ")
answers = keep_standard_output()
os.write(1, b"a driver's remark")
answers.write(b"{}\\n")
answers.flush()
print(" and Python's")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, check=True, text=True
    )
    assert (done.stdout, done.stderr) == ("before {}\n", "a driver's remark and Python's\n")
