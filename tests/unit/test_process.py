"""A worker is bound to its machine."""

import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tplaunch.worker import process

PINS_LATE = """
import os, threading
import numpy as np
from tplaunch.worker.process import pin

np.ones((300, 300), np.float32) @ np.ones((300, 300), np.float32)  # a BLAS with threads has them now
done = threading.Event()
waiting = [threading.Thread(target=done.wait) for _ in range(3)]
for thread in waiting:
    thread.start()
core = min(os.sched_getaffinity(0))
pin([core])
later = threading.Thread(target=done.wait)
later.start()
cores = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
done.set()
assert len(cores) >= 5, cores
assert cores == [{core}] * len(cores), cores
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core to be on")
def test_threads_that_exist_are_pinned_too() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", PINS_LATE], env=environment, check=True)


def test_without_proc_the_calling_thread_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TASKS", tmp_path / "task")
    before = os.sched_getaffinity(0)
    try:
        process.pin([min(before)])
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_a_descriptor_of_a_high_number_is_waited_for() -> None:
    """A head of many hosts has thousands, and select.select refuses the first beyond 1,023."""
    read, write = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, 1500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert not process.wait_readable([high], 0)
        os.write(write, b"?")
        assert process.wait_readable([high])
    finally:
        for descriptor in (read, write, high):
            os.close(descriptor)
