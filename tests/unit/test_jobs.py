"""Processes with one job: their time, and that none outlives whoever started it."""

import subprocess
import sys

import psutil
import pytest

from tplaunch.launcher import job_process
from tplaunch.running_clock import MOST_SECONDS, RunningClock

# A stand-in for the worker: does what its last argument says.
STAND_IN = [sys.executable, "-c", "import sys; exec(sys.argv[-1])"]


def test_a_job_runs_to_its_end() -> None:
    done = job_process.run_job([*STAND_IN, "print(7); print('no', file=sys.stderr); sys.exit(3)"], 60)
    assert (done.stdout, done.stderr, done.returncode) == (b"7\n", b"no\n", 3)


def test_a_job_that_hangs_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        job_process.run_job([*STAND_IN, "import signal; signal.pause()"], 0.3)
    assert psutil.Process().children() == []


def test_a_stop_takes_no_time_from_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps by hours while the job runs, which ends later than its time was."""
    jumps = iter([0.0, 5000.0])
    monkeypatch.setattr(job_process, "RunningClock", lambda: RunningClock(lambda: next(jumps, 5000.0)))
    done = job_process.run_job(
        [*STAND_IN, "import select; select.select([], [], [], 1); print(7)"], 2 * MOST_SECONDS
    )
    assert done.stdout == b"7\n"


CHILD = """
import os, select, sys
if sys.argv[1] == "polling":
    def forbidden(*_):
        raise PermissionError
    os.pidfd_open = forbidden
from tplaunch.worker.process import end_with_parent
end_with_parent(int(sys.argv[2]))
print(os.getpid(), flush=True)
sys.stdin.readline()
print("goes on", flush=True)
select.select([], [], [])
"""
PARENT = """
import os, subprocess, sys, threading
children = []
def start():
    command = [sys.executable, "-c", sys.argv[1], sys.argv[2], str(os.getpid())]
    pipe = subprocess.PIPE
    children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    print(children[0].stdout.readline(), end="", flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
children[0].stdin.write("\\n")
children[0].stdin.flush()
print(children[0].stdout.readline(), end="", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["pidfd", "polling"])
def test_a_worker_ends_with_the_process_that_started_it_not_with_the_thread(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "goes on\n"
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs([child], timeout=20)
    for process in alive:
        process.kill()
    assert not alive


def test_a_worker_whose_parent_has_gone_ends_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD, "pidfd", "1"], stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 1
