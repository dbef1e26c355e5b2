"""A run that fails or is ended says so within seconds, and leaves nothing behind (the fixture looks)."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine, complaints
from tests.patience import PATIENCE, SOON, end_of, wait_for

ENDLESS = ("-p", "Once upon a time", "--ignore-eos", "--context", "100000", "--temperature", "1")


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def await_text(process: subprocess.Popen[str]) -> None:
    """Returns when the run generates: its first words have come."""
    assert process.stdout is not None
    assert process.stdout.read(20), process.communicate()[1]


def worker_processes(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The run's workers by rank. Other children come and go: one just forked, one that lists the devices."""
    workers = {}
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):
            options = dict(word.split("=", 1) for word in child.cmdline() if word.startswith("--rank="))
            if "--rank" in options:
                workers[int(options["--rank"])] = child
    return workers


@pytest.mark.parametrize("collective", ["shared-memory", "zmq-ring"])
@pytest.mark.parametrize(
    ("devices", "rank"), [("0", 0), ("0,0", 0), ("0,0", 1), ("0,0,0", 2), ("numpy,numpy", 1), ("cpu,cpu", 1)]
)
def test_a_killed_worker(
    tplaunch: CommandLine, model: Path, collective: str, devices: str, rank: int
) -> None:
    await_end_of_killed(
        tplaunch.start("--devices", devices, "--collective", collective, model, *ENDLESS), rank
    )


@pytest.mark.parametrize("waiting", ["block", "poll", "word", "device"])
def test_a_killed_worker_ends_every_way_to_wait(tplaunch: CommandLine, model: Path, waiting: str) -> None:
    """Its peer's device may just be waiting for the words of the dead one's."""
    if waiting == "device" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("ranks on one core do not exchange by their devices")
    await_end_of_killed(tplaunch.start("--devices", "0,0", "--waiting", waiting, model, *ENDLESS), rank=1)


def await_end_of_killed(process: subprocess.Popen[str], rank: int) -> None:
    """Kills a rank; the run says so and ends."""
    await_text(process)
    os.kill(worker_processes(process)[rank].pid, signal.SIGKILL)
    stderr = end_of(process, SOON)
    assert process.returncode == 1
    lines = [line for line in complaints(stderr) if "NumPy" not in line]
    assert len(lines) == 1
    assert f"rank {rank} " in lines[0] and "SIGKILL" in lines[0]
    log = Path(lines[0].rsplit("its log: ", 1)[1])
    assert log.name == f"rank-{rank}.log" and log.is_file()


@pytest.mark.parametrize("collective", ["shared-memory", "zmq-ring"])
def test_a_rank_that_hangs(tplaunch: CommandLine, model: Path, collective: str) -> None:
    """The others give up after the timeout, and blame the one that hangs."""
    options = ("--devices", "numpy,numpy,numpy", "--collective", collective, "--timeout", "5")
    process = tplaunch.start(*options, model, *ENDLESS)
    await_text(process)
    worker_processes(process)[1].suspend()
    stderr = end_of(process, 5 + SOON)
    assert process.returncode == 1
    assert "rank-1.log" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("devices", ["0,0", "numpy"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run(
    tplaunch: CommandLine, model: Path, devices: str, number: signal.Signals, code: int
) -> None:
    process = tplaunch.start("--devices", devices, model, *ENDLESS)
    await_text(process)
    process.send_signal(number)
    stderr = end_of(process)
    assert process.returncode == code
    assert "Traceback" not in stderr


def test_ctrl_c_reaches_the_whole_group(tplaunch: CommandLine, model: Path) -> None:
    """A terminal sends SIGINT to every process of the foreground group, the workers too."""
    process = tplaunch.start("--devices", "0,0", model, *ENDLESS)
    await_text(process)
    os.killpg(process.pid, signal.SIGINT)
    stderr = end_of(process)
    assert (process.returncode, complaints(stderr)) == (130, [])


def test_workers_end_with_a_killed_launcher(tplaunch: CommandLine, model: Path) -> None:
    process = tplaunch.start("--devices", "0,0", model, *ENDLESS)
    await_text(process)
    workers = list(worker_processes(process).values())
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive
    for path in sorted(tplaunch.folder.glob("tmp/tplaunch-*/control")):
        path.unlink()  # no one was left to remove the socket file
        path.parent.rmdir()


@pytest.mark.parametrize("collective", ["shared-memory", "zmq-ring"])
def test_a_worker_that_is_killed_while_loading(tplaunch: CommandLine, model: Path, collective: str) -> None:
    process = tplaunch.start("--devices", "0,0", "--collective", collective, model, *ENDLESS)
    wait_for(lambda: len(worker_processes(process)) == 2)
    os.kill(worker_processes(process)[1].pid, signal.SIGKILL)
    stderr = end_of(process)
    assert process.returncode == 1
    assert "rank 1 " in stderr and "its log: " in stderr


# Python runs it at its start. The launcher, which would plan by the limit, is left without one.
LIMIT_WORKERS = """
import resource, sys
if any(word.startswith("--rank=") for word in sys.orig_argv):
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
"""


def test_a_worker_that_fails_while_loading(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    """Address space enough to start, but not for the cache of a large context."""
    (tmp_path / "sitecustomize.py").write_text(LIMIT_WORKERS)
    options = ("--devices", "numpy,numpy", model, "-p", "Once", "-n", "3", "--context", "10000000")
    result = tplaunch(*options, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    assert "out of memory" in result.stderr and "its log: " in result.stderr
    assert "Traceback" not in result.stderr
