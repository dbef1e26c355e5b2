"""Each worker's log: a file that is kept when the run fails, and with -v also lines on standard error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import psutil

MAX_KEPT_RUNS = 20


class RunLogs:
    """The logs of one run, in a directory of their own."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._directory = _make_directory()
        self._threads: list[threading.Thread] = []
        self._files: list[IO[bytes]] = []

    def path(self, rank: int) -> Path:
        return self._directory / f"rank-{rank}.log"

    def output(self, rank: int) -> IO[bytes] | int:
        """What a worker's standard output and error are to be."""
        file = self.path(rank).open("wb", buffering=0)
        self._files.append(file)
        return subprocess.PIPE if self._verbose else file

    def follow(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """With -v: copies what the worker writes, line by line, with its rank in front."""
        if process.stdout is None:
            return
        thread = threading.Thread(target=_copy, args=(rank, process.stdout, self._files[rank]), daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self, keep: bool) -> None:
        """After the workers have ended."""
        for thread in self._threads:
            thread.join(timeout=2)
        for file in self._files:
            file.close()
        if not keep:
            shutil.rmtree(self._directory, ignore_errors=True)


def _copy(rank: int, source: IO[bytes], file: IO[bytes]) -> None:
    with source:
        for line in source:
            file.write(line)
            sys.stderr.write(f"[rank {rank}] {line.decode(errors='replace')}")


def _make_directory() -> Path:
    """Under the user's state directory; where that can't be written, under the temporary one."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "tplaunch"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        directory = state / name
        directory.mkdir(mode=0o700, parents=True)
        _prune(state)
    except (OSError, RuntimeError, ValueError):  # no home, or folders in it that are not ours
        directory = Path(tempfile.mkdtemp(prefix="tplaunch-logs-"))
    return directory


def _prune(state: Path) -> None:
    """Keeps the logs of the last failed runs. A folder's name starts with the time and ends with the pid."""
    runs = sorted(path for path in state.iterdir() if path.is_dir())
    for path in runs[:-MAX_KEPT_RUNS]:
        if not psutil.pid_exists(int(path.name.rpartition("-")[2])):
            shutil.rmtree(path, ignore_errors=True)
