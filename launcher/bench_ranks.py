"""The processes of `tplaunch bench-collectives`: started, heard line by line, ended, each within a limit."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from tplaunch.launcher.config import RunError
from tplaunch.launcher.endings import end_reason
from tplaunch.launcher.signals import held
from tplaunch.running_clock import LOOK_SECONDS, RunningClock

GRACE_SECONDS = 5.0  # for ranks to end by themselves, and to say themselves whom they miss
READ_BYTES = 1 << 16


class BenchRanks:
    """Processes that each write lines of JSON. Use it as a context: they are gone when it ends.

    A rank may be silent for `timeout_seconds`, within which each of its calls ends, and for some grace.
    """

    def __init__(self, kind: str, timeout_seconds: float) -> None:
        self._kind, self._silence_seconds = kind, timeout_seconds + GRACE_SECONDS
        self._processes: list[subprocess.Popen[bytes]] = []
        self._unread: list[bytes] = []  # by rank: the beginning of a line

    def start(self, command: Sequence[str]) -> None:
        """Starts the next rank, or what starts them all."""
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with held():
            pipe = subprocess.PIPE
            self._processes.append(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, env=environment)
            )
            self._unread.append(b"")

    def tell(self, value: Any) -> None:
        """Sends every rank a line, which its pipe has room for."""
        line = json.dumps(value).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # of a rank that has ended: it is named when no answer comes
                process.stdin.write(line)

    def hear(self) -> list[Any]:
        """The next line of each rank, in rank order; lines without a value only say that it goes on.

        Raises RunError for the first that fails, ends or is silent for too long: others may wait for it.
        """
        clock = RunningClock()
        heard: dict[int, Any] = {}
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self._processes):
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, rank)
            last = dict.fromkeys(range(len(self._processes)), clock())
            while selector.get_map():
                events = selector.select(LOOK_SECONDS)
                now = clock()
                for key, _ in events:
                    last[key.data] = now
                    values = [value for value in self._read(key.data) if value is not None]
                    if values:
                        heard[key.data] = values[0]
                        selector.unregister(key.fileobj)
                self._refuse_silent([rank for rank in last if rank not in heard], last, now)
        return [heard[rank] for rank in range(len(self._processes))]

    def _read(self, rank: int) -> list[Any]:
        """The values of the lines that have come. A rank that was stopped may have left half a line."""
        process = self._processes[rank]
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), READ_BYTES)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            how = "closed its output" if process.returncode is None else end_reason(process.returncode)
            raise RunError(f"rank {rank} of {self._kind} ended without a result: {how}")
        *lines, self._unread[rank] = (self._unread[rank] + data).split(b"\n")
        values = [json.loads(line) for line in lines]
        for value in values:
            if isinstance(value, dict):
                raise RunError(f"rank {rank} of {self._kind} failed: {value['error']}")
        return values

    def _refuse_silent(self, awaited: Sequence[int], last: dict[int, float], now: float) -> None:
        silent = [str(rank) for rank in awaited if now - last[rank] > self._silence_seconds]
        if silent:
            names = f"rank{'s' * (len(silent) > 1)} {', '.join(silent)}"
            raise RunError(
                f"{names} of {self._kind} said nothing for {self._silence_seconds:g} s;"
                " see whether something has stopped them, or give them longer with --timeout"
            )

    def __enter__(self) -> BenchRanks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with held():
            self._end(at_once=kind is not None)

    def _end(self, at_once: bool) -> None:
        if at_once:  # they would go on waiting for one that has failed
            for process in self._processes:
                process.terminate()
                process.send_signal(signal.SIGCONT)  # a stopped one would take no notice
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
