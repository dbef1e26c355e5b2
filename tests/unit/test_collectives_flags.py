"""Flags on this processor and, as far as this one can show it, on others."""

import ctypes
import mmap
import platform
import threading
from typing import Any

import numpy as np
import pytest

from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, CollectiveError, SharedMemory
from tplaunch.collectives.flags import Flags, LibatomicFlags, PlainFlags, Sleeper

NUM_WORDS = 16


def _has_libatomic() -> bool:
    try:
        ctypes.PyDLL("libatomic.so.1")
    except OSError:
        return False
    return True


needs_libatomic = pytest.mark.skipif(not _has_libatomic(), reason="libatomic.so.1 is not installed")
needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="plain stores are ordered on x86-64 only"
)


@pytest.mark.parametrize(
    "make", [pytest.param(PlainFlags, marks=needs_x86), pytest.param(LibatomicFlags, marks=needs_libatomic)]
)
def test_flags_are_words_of_the_memory(make: Any) -> None:
    memory = mmap.mmap(-1, 4096)
    flags: Flags = make(memory, NUM_WORDS)
    flags.store(3, 2**64 - 2)
    flags.fence()
    assert flags.load(3) == 2**64 - 2
    assert flags.load(2) == flags.load(4) == 0
    assert memory[24:32] == (2**64 - 2).to_bytes(8, "little")


def reduce_many(rank: Collective) -> list[float]:
    totals = []
    for sequence in range(1, 101):
        rank.partials(sequence % 2)[rank.write_slot, :10] = sequence * (rank.rank + 1)
        rank.all_reduce(sequence, sequence % 2, 10)
        totals.append(float(rank.partials(sequence % 2)[:, 9].sum()))
    return totals


@needs_libatomic
def test_all_reduce_with_libatomic_as_on_arm() -> None:
    with connected(lambda **arguments: SharedMemory(**arguments, make_flags=LibatomicFlags), 3) as ranks:
        assert on_ranks(ranks, reduce_many) == [[6.0 * sequence for sequence in range(1, 101)]] * 3


@needs_libatomic
def test_all_reduce_on_an_unknown_processor_without_futex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "unheard-of")
    with connected("shared-memory", 3) as ranks:
        assert on_ranks(ranks, reduce_many) == [[6.0 * sequence for sequence in range(1, 101)]] * 3


def test_a_missing_libatomic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "PyDLL", missing)
    with pytest.raises(CollectiveError, match="install the package libatomic1"):
        LibatomicFlags(mmap.mmap(-1, 4096), NUM_WORDS)


def test_a_sleeper_does_not_wait_for_what_has_happened() -> None:
    memory = mmap.mmap(-1, 4096)
    words = np.frombuffer(memory, np.uint64, NUM_WORDS)
    words[5] = 2
    Sleeper(memory, NUM_WORDS).wait(5, seen=1, max_seconds=3600)


def test_a_sleeper_gives_up_in_time_and_is_woken() -> None:
    memory = mmap.mmap(-1, 4096)
    sleeper = Sleeper(memory, NUM_WORDS)
    sleeper.wait(5, seen=0, max_seconds=0.001)
    words = np.frombuffer(memory, np.uint64, NUM_WORDS)

    def wait_for_change() -> None:
        while words[5] == 0:
            sleeper.wait(5, seen=0, max_seconds=3600)

    waiting = threading.Thread(target=wait_for_change, daemon=True)
    waiting.start()
    words[5] = 1
    sleeper.wake(5)
    waiting.join(30)
    assert not waiting.is_alive()
