"""A worker that gives no sign of life is not asked to end, which it would not hear."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE, wait_for
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.supervisor import Supervisor
from tplaunch.launcher.worker_command import WORKER_COMMAND
from tplaunch.worker.process import wants_to_run


@dataclass(frozen=True)
class Quiet:
    verbose: bool = False


def watch_for(supervisor: Supervisor, seconds: float) -> None:
    """Looks after the workers for so long. Raises WorkerError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        supervisor.watch(())
        os.sched_yield()


def test_a_frozen_worker_is_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("tplaunch.launcher.supervisor.GRACE_SECONDS", 3600)  # for one that is asked to end
    before = set(psutil.Process().children())
    endpoint = f"ipc://{tmp_path}/nobody"
    supervisor = Supervisor(Quiet(), select_devices("numpy"), endpoint, lambda: None, silence_seconds=1.0)
    with pytest.raises(WorkerError, match=r"rank 0 .* gave no sign of life"), supervisor:
        (worker,) = set(psutil.Process().children()) - before
        with pytest.raises(AssertionError):  # it beats
            watch_for(supervisor, 3)
            raise AssertionError
        os.kill(worker.pid, signal.SIGSTOP)
        watch_for(supervisor, PATIENCE)
    assert not worker.is_running()


def test_a_worker_that_is_frozen_before_it_has_begun_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process here never beats: it stands for one that was stopped while Python started."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    before = set(psutil.Process().children())
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr("tplaunch.launcher.supervisor.WORKER_COMMAND", command)
    supervisor = Supervisor(
        Quiet(), select_devices("numpy"), f"ipc://{tmp_path}/nobody", lambda: None, silence_seconds=1.0
    )
    with (
        pytest.raises(WorkerError, match=r"rank 0 .* gave no sign of life .* since it was started"),
        supervisor,
    ):
        (worker,) = set(psutil.Process().children()) - before
        os.kill(worker.pid, signal.SIGSTOP)
        watch_for(supervisor, 30)


def test_a_worker_that_is_slow_to_start_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr("tplaunch.launcher.supervisor.WORKER_COMMAND", command)
    supervisor = Supervisor(
        Quiet(), select_devices("numpy"), f"ipc://{tmp_path}/nobody", lambda: None, silence_seconds=0.2
    )
    with supervisor:
        watch_for(supervisor, 1)
        supervisor.end(at_once=True, keep_logs=False)


def test_a_worker_beats_before_it_imports_what_takes_long(tmp_path: Path) -> None:
    for heavy in ("zmq", "numpy", "msgpack"):
        (tmp_path / f"{heavy}.py").write_text("import sys; sys.stdin.read()")
    read, write = os.pipe()
    command = [*WORKER_COMMAND, f"--parent={os.getpid()}", f"--beats={write}:0.05"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], env=environment) as worker:
        os.close(write)
        try:
            beats = b""
            while len(beats) < 5 and (more := os.read(read, 10)):
                beats += more
            assert len(beats) >= 5 and worker.poll() is None
        finally:
            worker.kill()
            os.close(read)


def test_a_process_that_waits_for_a_core_is_slow_and_not_stuck() -> None:
    program = "import sys; print(flush=True); sys.stdin.readline()\nwhile True: pass"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline()
            wait_for(lambda: not wants_to_run(process.pid))  # it waits for a line
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_for(lambda: wants_to_run(process.pid))
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda: not wants_to_run(process.pid))
        finally:
            process.kill()
    assert not wants_to_run(process.pid)
