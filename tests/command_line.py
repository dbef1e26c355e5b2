"""Runs the command line as a user would, in processes of its own, and finds what a run left behind.

Nothing a run makes may outlive it: no process, no file in TMPDIR or XDG_RUNTIME_DIR except a log whose
path the run printed, no shared memory.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.drivers import REPOSITORY
from tests.patience import PATIENCE, SOON

MARKER = "TPLAUNCH_TEST_RUN"
SHARED_MEMORY = Path("/dev/shm")


class CommandLine:
    """`tplaunch(*arguments)` in a private world of folders; `start` for one that goes on running."""

    def __init__(
        self,
        environment: Mapping[str, str],
        cache: Path,  # XDG_CACHE_HOME
        program: Sequence[str] = (sys.executable, "-m", "tplaunch"),
    ) -> None:
        self.program = program
        # Not below pytest's tmp_path: the path of an ipc:// socket may have 107 bytes (unix(7), sun_path).
        self.folder = Path(tempfile.mkdtemp(prefix="tpl-"))
        self.marker = uuid.uuid4().hex
        self.environment = {**environment, MARKER: self.marker, "XDG_CACHE_HOME": str(cache)}
        for variable, name in (
            ("TMPDIR", "tmp"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_STATE_HOME", "state"),
        ):
            (self.folder / name).mkdir(mode=0o700)
            self.environment[variable] = str(self.folder / name)
        self.printed = ""
        self.validate = False  # run the workers' devices under the Khronos validation layer
        self._started: list[subprocess.Popen[str]] = []
        self._shared_memory_before = set(shared_memory_segments())

    def __call__(
        self,
        *arguments: str | Path,
        timeout: float = 2 * PATIENCE,
        env: Mapping[str, str] | None = None,  # added to the environment
        input: str | None = None,
        check: bool = False,  # assert that it exits with 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs `tplaunch ARGUMENTS` to its end. One that outlives the timeout is killed: AssertionError."""
        process = self.start(*arguments, env=env)
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            living = self.living_processes()
            commands = "\n".join(map(command_of, living))
            kill(living)
            stdout, stderr = process.communicate()
            message = f"still running after {timeout} s:\n{commands}\n{stdout[-4000:]}\n{stderr[-4000:]}"
            raise AssertionError(message) from None
        self.printed += stdout + stderr
        if check:
            assert process.returncode == 0, f"tplaunch exited with {process.returncode}\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts `tplaunch ARGUMENTS` with pipes on all three streams, in a session of its own."""
        if self.validate and arguments[0] not in ("devices", "plan", "bench-collectives"):
            arguments = (*arguments, "--validate")
        process = subprocess.Popen(
            [*self.program, *map(str, arguments)],
            cwd=REPOSITORY,
            env={**self.environment, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.adopt(process)
        return process

    def adopt(self, process: subprocess.Popen[str]) -> None:
        """Counts a process that another has started, in a session of its own, as one of these runs."""
        self._started.append(process)

    def living_processes(self) -> list[psutil.Process]:
        """The processes of these runs that still live, found by session or a mark in their environment."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def leftovers(self) -> list[str]:
        """Lists the things that the runs left behind, a line each."""
        _, alive = psutil.wait_procs(self.living_processes(), timeout=SOON)
        found = [f"process {process.pid}: {command_of(process)}" for process in alive]
        kill(alive)
        for name in ("tmp", "run"):
            for path in sorted((self.folder / name).rglob("*")):
                if not self._is_named_log(path):
                    found.append(f"file {path}")
        new_segments = set(shared_memory_segments()) - self._shared_memory_before
        # A program that runs beside this one may have ended by now, and taken its segments along.
        unused = [path for path in sorted(new_segments) if not is_in_use(path) and path.exists()]
        found += [f"shared memory {path}" for path in unused]
        return found

    def close(self) -> None:
        """Ends what `start` started and the test left running (SIGTERM first), and looks for leftovers."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired, ValueError):  # ValueError: pipes closed
                stdout, stderr = process.communicate(timeout=PATIENCE)
                self.printed += stdout + stderr
        leftovers = self.leftovers()
        for process in self._started:
            process.wait()
        shutil.rmtree(self.folder)
        assert not leftovers, "a run of tplaunch left behind:\n" + "\n".join(leftovers)

    def _is_ours(self, process: psutil.Process) -> bool:
        sessions = {started.pid for started in self._started}
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return os.getsid(process.pid) in sessions or process.environ().get(MARKER) == self.marker
        except (psutil.Error, OSError):
            return False

    def _is_named_log(self, path: Path) -> bool:
        if path.is_dir():
            return any(map(self._is_named_log, path.rglob("*.log")))
        return path.suffix == ".log" and str(path) in self.printed


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE)


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "(gone)"


def shared_memory_segments() -> Iterator[Path]:
    """This user's segments and semaphores in /dev/shm, but those that Python's multiprocessing has made:

    tplaunch does not use that, and other programs leave some for a moment when they are killed.
    """
    for path in SHARED_MEMORY.glob("*"):
        if path.name.startswith("sem.mp-"):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == os.getuid():
                yield path


def is_in_use(path: Path) -> bool:
    """Does a living process hold this segment, another program of this user that runs beside the tests?"""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(path) in (process / "maps").read_text(errors="replace"):
                return True
            if any(file.readlink() == path for file in (process / "fd").iterdir()):
                return True
    return False


def complaints(stderr: str) -> list[str]:
    """The lines of standard error, without the one about a context that is not the model's own."""
    return [line for line in stderr.splitlines() if not line.startswith("tplaunch: context ")]
