"""Jobs that are stopped for longer than their timeouts, as by Ctrl-Z, and go on; and ranks that are not."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine, complaints
from tests.multiprocess.test_failures import ENDLESS, await_text, worker_processes
from tests.patience import PATIENCE, end_of, wait_for
from tplaunch.coordinator.serving.engine import MARGIN_SECONDS

TIMEOUT = ("--timeout", "4")
LONGER_SECONDS = 4 + MARGIN_SECONDS + 1  # than any deadline of such a run


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def stop(process: subprocess.Popen[str], process_ids: Sequence[int], seconds: float) -> None:
    """Stops these processes for so long, in which the run does not end."""
    for process_id in process_ids:
        os.kill(process_id, signal.SIGSTOP)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
    finally:
        for process_id in process_ids:
            os.kill(process_id, signal.SIGCONT)


def check_that_it_goes_on(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in range(200):  # more than the pipe held before
        await_text(process)
    process.terminate()
    stderr = end_of(process)
    assert process.returncode == 143
    assert [line for line in complaints(stderr) if "NumPy" not in line] == []


@pytest.mark.parametrize(
    ("devices", "collective"), [("numpy,numpy", "shared-memory"), ("numpy,numpy,numpy", "zmq-ring")]
)
def test_a_job_that_was_stopped_goes_on(
    tplaunch: CommandLine, model: Path, devices: str, collective: str
) -> None:
    options = ("--devices", devices, "--collective", collective, *TIMEOUT)
    process = tplaunch.start(*options, model, *ENDLESS)
    await_text(process)
    workers = [worker.pid for worker in worker_processes(process).values()]
    stop(process, [process.pid, *workers], LONGER_SECONDS)
    check_that_it_goes_on(process)


def test_a_launcher_that_was_stopped_alone_goes_on(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "numpy,numpy", *TIMEOUT, model, *ENDLESS)
    await_text(process)
    stop(process, [process.pid], LONGER_SECONDS)
    check_that_it_goes_on(process)


def test_a_job_that_was_stopped_while_it_started(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "numpy,numpy", "--timeout", "5", model, *ENDLESS)
    wait_for(lambda: len(worker_processes(process)) == 2)
    workers = [worker.pid for worker in worker_processes(process).values()]
    stop(process, [process.pid, *workers], 6)
    await_text(process)
    check_that_it_goes_on(process)


def test_workers_that_are_stopped_alone_do_not_answer(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "numpy,numpy", *TIMEOUT, model, *ENDLESS)
    await_text(process)
    for worker in worker_processes(process).values():
        worker.suspend()
    stderr = end_of(process)
    assert process.returncode == 1
    assert "tplaunch: rank 0 did not finish step" in complaints(stderr)[-1]
    assert "; its log: " in complaints(stderr)[-1]


def test_stopped_workers_end_with_a_killed_launcher(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "numpy,numpy", model, *ENDLESS)
    await_text(process)
    workers = list(worker_processes(process).values())
    for worker in workers:
        worker.suspend()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive
    for path in sorted(tplaunch.folder.glob("tmp/tplaunch-*/control")):
        path.unlink()  # no one was left to remove the socket file
        path.parent.rmdir()
