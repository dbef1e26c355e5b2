"""Runs recorded kernels one after another, in one thread or by a team of them: see worker/cpu/team.py."""

from __future__ import annotations

from numba import njit

from tplaunch.worker.cpu.kernels.shared_words import (
    add_shared,
    load_shared,
    pause,
    store_shared,
    system_call,
)
from tplaunch.worker.cpu.kernels.vectors import call, double_word, put_double_word
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.cpu.team_words import (
    ARRIVED,
    CALLS,
    COUNT,
    FAILED,
    FUTEX,
    IS_CLOSING,
    MEETINGS,
    ORDERS,
    ROUNDS,
    SLEEPERS,
    SLICE,
    SPINS,
    SYSTEM_CALL,
)

inlined = njit(**OPTIONS)
FUTEX_WAIT, FUTEX_WAKE = 0 | 128, 1 | 128  # among the threads of one process
ALL = 2**31 - 1  # that sleep on a word


def run(calls: int, count: int, team: int, thread: int, num_threads: int) -> None:
    """Calls `count` kernels in this thread alone, whatever the team.

    calls: the address of pairs, a kernel's address and its arguments'.
    """
    for index in range(count):
        pair = calls + 16 * index
        call(double_word(pair), double_word(pair + 8), thread, num_threads)


def lead(calls: int, count: int, team: int, thread: int, num_threads: int) -> None:
    """Calls `count` kernels together with the team's other threads; FAILED is set where one does not come."""
    put_double_word(team + CALLS, calls)
    put_double_word(team + COUNT, count)
    _announce(team, ORDERS)
    _run_together(team, calls, count, thread, num_threads)


def follow(team: int, thread: int, num_threads: int) -> None:
    """Calls the kernels of one order after another until the team is closed, or has failed."""
    seen = 0
    while True:
        while not _wait(team, ORDERS, seen):
            pass
        seen = load_shared(team + ORDERS)
        if load_shared(team + IS_CLOSING) != 0:
            return
        calls, count = double_word(team + CALLS), double_word(team + COUNT)
        if not _run_together(team, calls, count, thread, num_threads):
            return


def close(team: int, thread: int, num_threads: int) -> None:
    """Has the other threads return."""
    store_shared(team + IS_CLOSING, 1)
    _announce(team, ORDERS)


def pauses(count: int, thread: int, num_threads: int) -> None:
    """Does nothing as often as told, so that it can be timed."""
    for _ in range(count):
        pause()


@inlined
def _run_together(team: int, calls: int, count: int, thread: int, num_threads: int) -> bool:
    """Returns false where another thread did not come to where it was awaited."""
    for index in range(count):
        pair = calls + 16 * index
        call(double_word(pair), double_word(pair + 8), thread, num_threads)
        if not _meet(team, num_threads):
            return False
    return True


@inlined
def _meet(team: int, num_threads: int) -> bool:
    """Waits until all threads are here, the last of which tells the others; false where one does not come."""
    seen = load_shared(team + MEETINGS)
    if add_shared(team + ARRIVED, 1) == num_threads - 1:
        store_shared(team + ARRIVED, 0)
        _announce(team, MEETINGS)
        return True
    if _wait(team, MEETINGS, seen):
        is_well: bool = load_shared(team + FAILED) == 0
        return is_well
    store_shared(team + FAILED, 1)
    return False


@inlined
def _announce(team: int, word: int) -> None:
    """Changes a word, and wakes the threads that sleep on it.

    A thread counts itself among the sleepers before it looks at the word for the last time, which the kernel
    does: either that sees the change, or this sees a sleeper.
    """
    add_shared(team + word, 1)
    if load_shared(team + word + SLEEPERS) != 0:
        system_call(
            double_word(team + SYSTEM_CALL), double_word(team + FUTEX), team + word, FUTEX_WAKE, ALL, 0
        )


@inlined
def _wait(team: int, word: int, seen: int) -> bool:
    """Waits until a word is no longer what was seen, awake at first; false where that takes too long.

    It sleeps for slices of time, so that nothing is lost while the whole process is stopped.
    """
    for _ in range(double_word(team + SPINS)):
        if load_shared(team + word) != seen:
            return True
        pause()
    add_shared(team + word + SLEEPERS, 1)
    left = double_word(team + ROUNDS)
    while load_shared(team + word) == seen and left > 0:
        function, futex = double_word(team + SYSTEM_CALL), double_word(team + FUTEX)
        system_call(function, futex, team + word, FUTEX_WAIT, seen, team + SLICE)
        left -= 1
    add_shared(team + word + SLEEPERS, -1)
    has_changed: bool = load_shared(team + word) != seen
    return has_changed
