"""A signal ends a run in order, whenever it comes and however often; the fixture looks for what is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine, complaints
from tests.multiprocess.test_failures import ENDLESS, await_text, worker_processes
from tests.patience import end_of


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def check_end(tplaunch: CommandLine, process: subprocess.Popen[str], code: int) -> None:
    """It ends with the code, without a word, and keeps no log."""
    stderr = end_of(process)
    assert process.returncode == code, stderr
    assert [line for line in complaints(stderr) if "NumPy" not in line] == []
    assert list((tplaunch.folder / "state").glob("tplaunch/*")) == []


SIGNALS = ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGABRT", "SIGXCPU", "SIGRTMIN")


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_that_ends_a_process(tplaunch: CommandLine, model: Path, name: str) -> None:
    number = getattr(signal, name)
    process = tplaunch.start("--devices", "numpy", model, *ENDLESS)
    await_text(process)
    process.send_signal(number)
    check_end(tplaunch, process, 128 + number)


@pytest.mark.parametrize("devices", ["numpy,numpy", "cpu,cpu"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_a_signal_to_the_whole_group(
    tplaunch: CommandLine, model: Path, number: signal.Signals, devices: str
) -> None:
    process = tplaunch.start("--devices", devices, "--cpu-threads", "2", model, *ENDLESS)
    await_text(process)
    os.killpg(process.pid, number)
    check_end(tplaunch, process, 128 + number)


# Of signals that wait together Python takes the lowest number first: none is lower than SIGINT's.
@pytest.mark.parametrize("others", [[signal.SIGINT] * 50, [signal.SIGTERM, signal.SIGQUIT] * 20])
def test_more_signals_change_nothing(
    tplaunch: CommandLine, model: Path, others: list[signal.Signals]
) -> None:
    """As an impatient person sends them: with gaps from none to longer than the whole clean-up."""
    process = tplaunch.start("--devices", "numpy,numpy", model, *ENDLESS)
    await_text(process)
    process.send_signal(signal.SIGINT)
    for i, number in enumerate(others):
        try:
            process.wait(0.0005 * (i + 1))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    check_end(tplaunch, process, 130)


@pytest.mark.parametrize("module", ["tplaunch.worker", "numpy", "tplaunch.launcher.options"])
def test_ctrl_c_while_python_imports(tplaunch: CommandLine, model: Path, module: str) -> None:
    """-X importtime tells which module has just been imported."""
    tplaunch.program = [sys.executable, "-X", "importtime", "-m", "tplaunch"]
    process = tplaunch.start("--devices", "numpy", model, "-p", "Once")
    assert process.stderr is not None
    while (line := process.stderr.readline()).rpartition("|")[2].strip() != module:
        assert line
    process.send_signal(signal.SIGINT)
    stderr = end_of(process)
    assert (process.returncode, "Traceback" in stderr) == (130, False)


def test_ctrl_c_while_the_workers_start(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "numpy,numpy,numpy", model, *ENDLESS)
    while not worker_processes(process):
        os.sched_yield()
    os.killpg(process.pid, signal.SIGINT)
    check_end(tplaunch, process, 130)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_an_ignored_signal_stays_ignored(tplaunch: CommandLine, model: Path, number: signal.Signals) -> None:
    """As nohup and shells without job control start a program."""
    ignoring = f"trap '' {number.name[3:]}; exec \"$@\""
    tplaunch.program = ["sh", "-c", ignoring, "sh", *tplaunch.program]
    process = tplaunch.start("--devices", "numpy", model, *ENDLESS)
    await_text(process)
    process.send_signal(number)
    await_text(process)
    await_text(process)
    process.send_signal(signal.SIGTERM)
    check_end(tplaunch, process, 143)
