"""Processes that end in ways that nobody expects of them, and what is said of that."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tplaunch.launcher import check_job, devices
from tplaunch.launcher.check_job import DeviceReport, check_device
from tplaunch.launcher.commands.check import CheckConfig
from tplaunch.launcher.config import RunError
from tplaunch.launcher.device_job import run_device_job
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason, ending
from tplaunch.running_clock import RunningClock

GPU = DeviceChoice(0, "gpu 0", on_cpu=False)
CONFIG = CheckConfig("0")
COUNT = """{"count": 2, "device": "gpu 0", "driver": "1.0"}"""
BEGIN = """{"begin": "k", "family": "f", "variant": "", "op": "o"}"""
RIGHT = """{"end": "k", "error": 0.0, "bound": 1.0}"""
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
        monkeypatch.setattr("tplaunch.launcher.check_job.job_command", lambda *_: (command, {}))
        monkeypatch.setattr("tplaunch.launcher.device_job.job_command", lambda *_: (command, {}))
        monkeypatch.setattr(devices, "job_words", lambda: command)

    return run


def checked() -> DeviceReport:
    return check_device(CONFIG, GPU, lambda report: None)


def test_a_driver_that_ends_the_process_as_if_all_were_well_is_not_right(job: Callable[[str], None]) -> None:
    job("")
    report = checked()
    assert not report.is_right and "ended as if all were well" in report.error
    with pytest.raises(RunError, match="measuring gpu 0 ended with code 0: no message"):
        run_device_job(CONFIG, GPU, "tune", {}, 60)
    assert devices.list_devices().reason.startswith(
        "listing the Vulkan devices ended with code 0: no message; VK_DRIVER_FILES"
    )


def test_so_is_the_kernel_in_which_it_does_so(job: Callable[[str], None]) -> None:
    job(f"print('''{COUNT}\n{BEGIN}''')")
    report = checked()
    assert [outcome.problem for outcome in report.outcomes] == ["its process ended as if all were well"] * 2
    job(f"print('''{COUNT}\n{BEGIN}\n{RIGHT}\n{BEGIN}\n{RIGHT}''')")
    assert checked().is_right


def test_a_driver_that_crashes_is_told_by_its_signal(job: Callable[[str], None]) -> None:
    job(CRASH)
    assert checked().error == "gpu 0 can't be checked: its process was killed by SIGSEGV"
    with pytest.raises(RunError, match="measuring gpu 0 was killed by SIGSEGV"):
        run_device_job(CONFIG, GPU, "tune", {}, 60)
    reason = devices.list_devices().reason
    assert reason.startswith("listing the Vulkan devices was killed by SIGSEGV; VK_DRIVER_FILES")
    assert "install" not in reason  # a driver that crashes is there


def test_a_stop_takes_no_time_from_a_check(
    job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps by hours while the process says nothing."""
    hours = iter(range(0, 10**9, 5000))
    monkeypatch.setattr(check_job, "RunningClock", lambda: RunningClock(lambda: next(hours)))
    answers = "\n".join((COUNT, BEGIN, RIGHT, BEGIN, RIGHT))
    job(f"import select; select.select([], [], [], 0.5); print('''{answers}''')")
    assert checked().is_right


def test_a_check_that_hangs_is_given_up(job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_job, "SILENT_SECONDS", 0.2)
    job("import signal; signal.pause()")
    assert checked().error == "gpu 0 can't be checked: no answer within 0 s"


def test_what_a_driver_writes_to_standard_output_is_no_answer() -> None:
    program = """
import os
from tplaunch.worker.process import keep_standard_output
os.write(1, b"before ")
keep_standard_output()
os.write(1, b"a driver's remark")
print("{}")
os.write(1, b" and another")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, check=True, text=True
    )
    assert (done.stdout, done.stderr) == ("before {}\n", "a driver's remark and another")
