"""Words that processes share: ordered loads and stores, and sleeping until one changes.

All that depends on the processor stands here. A flag is a 64-bit word of a shared mapping, named by
its index; a store makes everything stored before it visible to whoever loads the stored value.
Little-endian machines only: the kernel's futex looks at a flag's low half, which lies first.
"""

import ctypes
import mmap
import platform
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tplaunch.collectives.failures import INSTEAD, CollectiveError

WORD_BYTES = 8

_SEQ_CST = 5  # GCC's __ATOMIC_SEQ_CST
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1  # without FUTEX_PRIVATE_FLAG: the word is shared between processes
_FUTEX_SYSCALL = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221}
_EVERYONE = 2**31 - 1
_SLEEP_SECONDS = 0.0005  # where there is no futex


class Flags(Protocol):
    @property
    def load(self) -> Callable[[int], int]: ...

    @property
    def store(self) -> Callable[[int, int], None]: ...

    def fence(self) -> None:
        """No load after it happens before a store ahead of it."""


class PlainFlags:
    """x86-64: aligned plain loads and stores, which the processor already orders as acquire and release
    (Intel SDM vol. 3A, 9.2.2); only a load may overtake an earlier store, which fence() forbids."""

    load: Callable[[int], int]
    store: Callable[[int, int], None]

    def __init__(self, memory: mmap.mmap, num_words: int) -> None:
        words = memoryview(memory)[: num_words * WORD_BYTES].cast("Q")
        self.load = words.__getitem__
        self.store = words.__setitem__
        self._lock = threading.Lock()

    def fence(self) -> None:
        with self._lock:  # a locked instruction and so a full barrier, far cheaper than a call by ctypes
            pass


class LibatomicFlags:
    """Any other processor: GCC's atomics, called through ctypes. Sequentially consistent, so that a
    load does not overtake an earlier store and fence() has nothing left to do."""

    def __init__(self, memory: mmap.mmap, num_words: int) -> None:
        library = _libatomic()
        self._load = library["__atomic_load_8"]
        self._load.argtypes, self._load.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.c_uint64
        self._store = library["__atomic_store_8"]
        self._store.argtypes, self._store.restype = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int), None
        self._words = np.frombuffer(memory, np.uint64, num_words)
        self._address = self._words.ctypes.data

    def load(self, word: int) -> int:
        value: int = self._load(self._address + word * WORD_BYTES, _SEQ_CST)
        return value

    def store(self, word: int, value: int) -> None:
        self._store(self._address + word * WORD_BYTES, value, _SEQ_CST)

    def fence(self) -> None:
        pass


def _libatomic() -> ctypes.PyDLL:
    try:
        return ctypes.PyDLL("libatomic.so.1")  # PyDLL: these calls are far shorter than letting go of the GIL
    except OSError as error:
        raise CollectiveError(
            f"shared memory on {platform.machine()} needs libatomic.so.1: install the package libatomic1"
            f" (Debian, Ubuntu) or libatomic (Fedora), or {INSTEAD}"
        ) from error


def flags_for_this_machine(memory: mmap.mmap, num_words: int) -> Flags:
    if platform.machine() in ("x86_64", "AMD64"):
        return PlainFlags(memory, num_words)
    return LibatomicFlags(memory, num_words)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class Sleeper:
    """Sleeps until a flag changes, by futex(2), or in short naps where the kernel offers none."""

    def __init__(self, memory: mmap.mmap, num_words: int) -> None:
        self._words = np.frombuffer(memory, np.uint64, num_words)
        self._address = self._words.ctypes.data
        self._number = _FUTEX_SYSCALL.get(platform.machine())
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        self._syscall.argtypes = (ctypes.c_long, pointer, integer, ctypes.c_uint32, pointer, pointer, integer)
        self._syscall.restype = ctypes.c_long
        if self._number is not None and self._futex(0, _FUTEX_WAKE, 1) < 0:
            self._number = None  # unknown to this kernel, or forbidden by seccomp

    def wait(self, word: int, seen: int, max_seconds: float) -> None:
        """Return when `word` no longer holds `seen`, when woken, after max_seconds, or for no reason."""
        if self._number is None:
            time.sleep(min(max_seconds, _SLEEP_SECONDS))
            return
        limit = _Timespec(int(max_seconds), int(max_seconds % 1 * 1e9))
        self._futex(word, _FUTEX_WAIT, seen & 0xFFFFFFFF, ctypes.addressof(limit))

    def wake(self, word: int) -> None:
        if self._number is not None:
            self._futex(word, _FUTEX_WAKE, _EVERYONE)

    def _futex(self, word: int, operation: int, value: int, limit: int | None = None) -> int:
        address = self._address + word * WORD_BYTES
        result: int = self._syscall(self._number, address, operation, value, limit, None, 0)
        return result
