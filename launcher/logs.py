"""Each worker's log: a file that is kept when the run fails, and with -v also lines on standard error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from tplaunch.worker.folders import is_own_folder, make_private, private_temporary, user_folder

MAX_KEPT_RUNS = 20
MAX_PID = 2**31 - 1  # beyond, no process is asked for
TEMPORARY_PREFIX = "tplaunch-logs-"  # of folders that are not in one of ours
RUN_NAME = re.compile(rf"({TEMPORARY_PREFIX})?(?P<time>\d{{8}}-\d{{6}})-(?P<pid>\d{{1,10}})(-\w+)?", re.ASCII)


class RunLogs:
    """The logs of one run, in a directory of their own."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self.folder = _make_directory()
        self._threads: list[threading.Thread] = []
        self._files: list[IO[bytes]] = []

    def path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"

    def output(self, rank: int) -> IO[bytes] | int:
        """Returns the file, or subprocess.PIPE, for a worker's standard output and error."""
        file = self.path(rank).open("wb", buffering=0)
        os.fchmod(file.fileno(), 0o600)  # whatever the umask is
        self._files.append(file)
        return subprocess.PIPE if self._verbose else file

    def follow(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """Copies with -v the lines that the worker writes, with its rank in front."""
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
            with suppress(OSError):  # some file systems say only here that they are full
                file.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def _copy(rank: int, source: IO[bytes], file: IO[bytes]) -> None:
    """Reads on where the file can't take more: a worker whose output no one reads would stand still."""
    with source:
        for line in source:
            with suppress(OSError):
                file.write(line)
            sys.stderr.write(f"[rank {rank}] {line.decode(errors='replace')}")


def _make_directory() -> Path:
    """Under the user's state directory; where that can't be written, under the temporary one.

    Its name has the time and the process, and more, since a benchmark makes several runs in a second.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-"
    parent = user_folder("XDG_STATE_HOME", ".local/state")
    try:
        if parent is None:
            raise FileNotFoundError("there is no home folder")
        make_private(parent / "tplaunch")
        directory = private_temporary(name, parent / "tplaunch")
    except OSError:  # no home, one that can't be written, or something else of that name in it
        directory = private_temporary(TEMPORARY_PREFIX + name)
    _prune(directory.parent)
    return directory


def _prune(parent: Path) -> None:
    """Keeps the logs of the last failed runs, and whatever is not named like a run's folder."""
    with suppress(OSError):  # logs that stay are no reason to end
        named = [(path, match) for path in parent.iterdir() if (match := RUN_NAME.fullmatch(path.name))]
        runs = sorted(
            (match["time"], path, int(match["pid"])) for path, match in named if is_own_folder(path)
        )
        for _, path, pid in runs[:-MAX_KEPT_RUNS]:
            if pid > MAX_PID or not psutil.pid_exists(pid):
                shutil.rmtree(path, ignore_errors=True)
