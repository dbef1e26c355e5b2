"""Processes that measure together, as ranks do: started, heard, and ended, each within a limit."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from tplaunch.coordinator.framing import MessageReader, framed
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason
from tplaunch.launcher.rank_words import rank_words
from tplaunch.launcher.signals import held
from tplaunch.launcher.supervisor import driver_settings
from tplaunch.launcher.worker_command import job_words
from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.jobs.messages import COLLECTIVE_ANSWERS, Failed, Meeting, StillThere

GRACE_SECONDS = 5.0  # for ranks to end by themselves, and to say themselves whom they miss
READ_BYTES = 1 << 16
M = TypeVar("M")


class BenchRanks:
    """Processes that each answer with messages. Use it as a context: they are gone when it ends.

    A rank may be silent for `timeout_seconds`, within which each of its calls ends, and for some grace.
    """

    def __init__(
        self, kind: str, timeout_seconds: float, answers: Iterable[type] = COLLECTIVE_ANSWERS
    ) -> None:
        """kind: what they are ranks of, for sentences. answers: the types of their messages."""
        self._answers = tuple(answers)
        self._kind, self._silence_seconds = kind, timeout_seconds + GRACE_SECONDS
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[MessageReader] = []  # by rank

    def start(
        self, command: Sequence[str], settings: Mapping[str, str] | None = None, *, is_heard: bool = True
    ) -> None:
        """Starts the next rank, or what starts them all.

        settings: environment variables, by default those of one core. is_heard: its remarks go to standard
        error.
        """
        settings = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if settings is None else settings
        environment = {**os.environ, **settings}
        with held():
            pipe = subprocess.PIPE
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=None if is_heard else subprocess.DEVNULL,
                    bufsize=0,
                    env=environment,
                )
            )
            self._readers.append(MessageReader(self._answers))

    def tell(self, message: Any) -> None:
        """Sends every rank a message, which its pipe has room for."""
        self.tell_each([message] * len(self._processes))

    def tell_each(self, messages: Sequence[Any]) -> None:
        """Sends each rank a message of its own, which its pipe has room for or it reads at once."""
        for process, message in zip(self._processes, messages, strict=True):
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # of a rank that has ended: it is named when no answer comes
                process.stdin.write(framed(message))

    def meet(self) -> None:
        """Tells all ranks where each of them says that it is found. Raises RunError as `hear` does."""
        met = self.hear(Meeting)
        self.tell(Meeting(tuple(endpoint for meeting in met for endpoint in meeting.endpoints)))

    def hear(self, kind: type[M]) -> list[M]:
        """Returns the next message of each rank, in rank order; by StillThere they only say that they go on.

        Raises RunError for the first that fails, ends or is silent for too long: others may wait for it.
        """
        clock = RunningClock()
        heard: dict[int, M] = {}
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
                    for message in self._read(key.data, kind):
                        heard[key.data] = message
                        selector.unregister(key.fileobj)
                self._refuse_silent([rank for rank in last if rank not in heard], last, now)
        return [heard[rank] for rank in range(len(self._processes))]

    def _read(self, rank: int, kind: type[M]) -> list[M]:
        """The messages that have come. A rank that was stopped may have left half of one."""
        process = self._processes[rank]
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), READ_BYTES)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            how = "closed its output" if process.returncode is None else end_reason(process.returncode)
            raise RunError(f"rank {rank} of {self._kind} ended without a result: {how}")
        try:
            messages = list(self._readers[rank].feed(data))
        except WireError as error:
            raise RunError(f"rank {rank} of {self._kind} gave no answer that can be read: {error}") from error
        answers = [message for message in messages if not isinstance(message, StillThere)]
        for message in answers:
            if isinstance(message, Failed):
                raise RunError(f"rank {rank} of {self._kind} failed: {message.error}")
        if len(answers) > 1 or not all(isinstance(message, kind) for message in answers):
            names = " and ".join(type(message).__name__ for message in answers)
            raise RunError(
                f"rank {rank} of {self._kind} sent {names}, where one {kind.__name__} was expected"
            )
        return answers

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


def start_on_devices(ranks: BenchRanks, choices: Sequence[DeviceChoice], *, is_heard: bool) -> None:
    """Starts a rank on each device, on cores as ranks of a run have them. is_heard: see BenchRanks.start."""
    for rank, (choice, cores) in enumerate(zip(choices, rank_cores(choices, usable_cores()), strict=True)):
        words = rank_words(choice, cores, len(choices))
        settings = driver_settings(choice, len(cores), len(choices))
        ranks.start([*job_words(), f"--rank={rank}", *words], settings, is_heard=is_heard)
