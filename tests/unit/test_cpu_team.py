"""A team's threads: the same bits whatever their number, asleep when idle, ended with their device."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from tests.lone_worker import opened_worker
from tests.models import LIMITS, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.messages import Wanted
from tplaunch.worker.cpu import team as module
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.compiling import compiled, kernel_function
from tplaunch.worker.cpu.target import Target, host
from tplaunch.worker.cpu.team import Team
from tplaunch.worker.cpu.team_words import ARRIVED, COUNT, FAILED, ORDERS, SLEEPERS, SPINS
from tplaunch.worker.device import DeviceError
from tplaunch.worker.measuring.measurements import cache_folder

NUM_CALLS = 200
WANTED = Wanted(whole_rows=np.zeros(1, np.int32))


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(cache_folder())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Calls:
    """Calls of a function in Python's place of kernels, which notes who called it."""

    def __init__(self, team: Team, count: int = NUM_CALLS) -> None:
        self.called: list[tuple[int, int, int]] = []
        self.delay: dict[int, float] = {}
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self._function = kind(self._note)
        address = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        self._pairs = np.array([(address, index) for index in range(count)], np.int64)
        self._run = np.array((self._pairs.ctypes.data, count, team.address), np.int64)
        self._team = team

    def run(self) -> None:
        self._team.run(int(self._run.ctypes.data))

    def _note(self, index: int, thread: int, num_threads: int) -> None:
        time.sleep(self.delay.get(thread, 0.0))
        self.called.append((index, thread, num_threads))


@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_every_thread_calls_every_kernel_before_the_next(kernels: Kernels, num_threads: int) -> None:
    team = Team(kernels, num_threads, 60.0)
    calls = Calls(team)
    for _ in range(2):
        calls.run()
    team.close()
    expected = [(index, thread, num_threads) for index in range(NUM_CALLS) for thread in range(num_threads)]
    found = np.array(calls.called).reshape(2, NUM_CALLS, num_threads, 3)
    for turn in found:
        assert [tuple(call) for kernel in turn for call in sorted(kernel.tolist())] == expected


@pytest.mark.parametrize("num_threads", [2, 3])
def test_a_slow_thread_is_awaited_asleep(kernels: Kernels, num_threads: int) -> None:
    team = Team(kernels, num_threads, 60.0)
    calls = Calls(team, 1)
    for slow in range(num_threads):
        calls.delay, calls.called[:] = {slow: 0.2}, []
        before = time.process_time()
        calls.run()
        assert calls.called[-1] == (0, slow, num_threads)
        assert time.process_time() - before < 0.1
    team.close()


def test_threads_sleep_while_there_is_nothing_to_do(kernels: Kernels) -> None:
    team = Team(kernels, 3, 60.0)
    Calls(team, 3).run()
    until = time.monotonic() + 30
    while int(team._word(ORDERS + SLEEPERS)[0]) < 2 and time.monotonic() < until:
        time.sleep(0.001)
    before = time.process_time()
    time.sleep(1.5)
    assert time.process_time() - before < 0.02
    team.close()


def test_one_thread_is_a_call(kernels: Kernels) -> None:
    before = threading.active_count()
    team = Team(kernels, 1, 60.0)
    assert threading.active_count() == before
    calls = Calls(team, 1)
    calls.run()
    assert calls.called == [(0, 0, 1)] and not team._memory.any()
    team.close()


def test_a_thread_that_does_not_come_ends_the_wait(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    team = Team(kernels, 2, 1.0)
    calls = Calls(team, 1)
    calls.delay = {1: 3.0}
    begin = time.monotonic()
    with pytest.raises(DeviceError, match="a thread of 2 did not come back from a kernel within 1 s"):
        calls.run()
    assert time.monotonic() - begin < 2.9
    team.close()  # does not wait for it
    for thread in team._threads:  # but it ends when it comes back
        thread.join(30.0)
        assert not thread.is_alive()


def test_a_team_closes_once_and_with_its_owner(kernels: Kernels) -> None:
    team = Team(kernels, 3, 60.0)
    threads = team._threads
    team.close()
    team.close()
    assert not any(thread.is_alive() for thread in threads)
    left = Team(kernels, 2, 60.0)
    (thread,) = left._threads
    del left
    assert not thread.is_alive()


def test_threads_that_cannot_be_started_end_the_others(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def limited(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(
        DeviceError, match=r"4 threads for kernels can't be started .* --cpu-threads has fewer"
    ):
        Team(kernels, 4, 60.0)
    assert len(started) == 2 and not any(thread.is_alive() for thread in started)


def test_more_threads_than_cores_do_not_stay_awake(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    few, many = Team(kernels, 2, 60.0), Team(kernels, 3, 60.0)
    spins = [int(team._memory[SPINS : SPINS + 8].view(np.int64)[0]) for team in (few, many)]
    few.close()
    many.close()
    assert spins[0] > 100 and spins[1] == 0


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """A prompt of more rows than are multiplied at once, and a token behind it."""
    write_llama(tmp_path / "model.gguf", types={"attn_q.weight": "Q8_0", "ffn_down.weight": "Q4_0"})
    tables, prompt = {0: range(LIMITS.blocks_per_seat)}, [*range(1, 8)]
    made = (
        step_of(1, [Rows(prompt)], [len(prompt) - 1], tables),
        step_of(2, [Rows([5], len(prompt))], [0], tables),
    )
    steps = [dataclasses.replace(step, wanted=WANTED) for step in made]
    found = {}
    for num_threads in (1, 2, 3, 5):
        model = tmp_path / "model.gguf"
        with opened_worker(model, tmp_path, LIMITS, None, num_threads) as worker:
            assert worker.device.name == "cpu"
            found[num_threads] = [worker.run(step).logits.tobytes() for step in steps]
    assert found[1] == found[2] == found[3] == found[5] and any(found[1][0]) and found[1][0] != found[1][1]


def test_words_lie_apart() -> None:
    assert len({place // 128 for place in (ORDERS, ORDERS + SLEEPERS, ARRIVED, FAILED, COUNT)}) == 5


@pytest.mark.parametrize(
    ("triple", "processor", "features", "instruction"),
    [
        ("x86_64-unknown-linux-gnu", "haswell", "", b"\xf3\x90"),
        ("aarch64-unknown-linux-gnu", "generic", "", bytes.fromhex("3f2003d5")),
    ],
)
def test_a_waiting_thread_says_so_to_its_processor(
    triple: str, processor: str, features: str, instruction: bytes
) -> None:
    _, code = compiled(kernel_function("running", "pauses"), Target(triple, processor, features))
    assert instruction in code
    _, code = compiled(kernel_function("running", "lead"), Target(triple, processor, features))
    assert code and host().triple
