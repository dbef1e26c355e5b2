"""A process that compiles kernels into a folder: its arguments are its parent, the folder, and their names.

A rank has its memory for weights; what Numba and LLVM need for a moment is another process's, and several of
them compile at once. They share kernels out by locks, also with those of other ranks: each takes what nobody
has taken, and at last awaits what others are still at. It prints the name of every kernel that it has done.
"""

from __future__ import annotations

import fcntl
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.cpu.kept_code import read_kernel, write_kernel
from tplaunch.worker.process import end_with_parent

NO_NUMBA = 3  # the process's status where Numba can't be imported
LOCK_NAME = ".lock"
MAX_WAIT_SECONDS = 60.0  # for a kernel of another process, which may have been stopped
Compile = Callable[[str], tuple[list[str], bytes]]


def main() -> int:
    parent, folder, *names = sys.argv[1:]
    end_with_parent(int(parent))
    try:
        from tplaunch.worker.cpu.compiling import compiled_for_host
    except Exception as error:  # also what a Numba or an LLVM raises that is there, and broken
        _tell(str(error).replace("\n", " ") or repr(error))
        return NO_NUMBA
    for name in compile_all(Path(folder), names, compiled_for_host):
        _tell(name)
    return 0


def _tell(line: str) -> None:
    """Writes a line in one piece: others write there, and print may write two."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def compile_all(folder: Path, names: Iterable[str], compiled: Compile) -> Iterator[str]:
    """Sees to it that kernels lie in a folder; yields the names of those that this process compiles."""
    with (folder / LOCK_NAME).open("ab") as locks:
        left = []
        for name in names:
            with _claim(locks, name, 0.0) as is_mine:
                if not is_mine:
                    left.append(name)
                elif _compile(folder, name, compiled):
                    yield name
        for name in left:
            with _claim(locks, name, MAX_WAIT_SECONDS):
                if _compile(folder, name, compiled):
                    yield name


def _compile(folder: Path, name: str, compiled: Compile) -> bool:
    """Returns false where the kernel was there."""
    if read_kernel(folder / name) is not None:
        return False
    write_kernel(folder / name, *compiled(name))
    return True


@contextmanager
def _claim(locks: BinaryIO, name: str, seconds: float) -> Iterator[bool]:
    """Has other processes leave a kernel to this one; yields false where another has it for so long.

    Of the file of locks each kernel has a byte, which the kernel unlocks when a process ends.
    """
    clock, place = RunningClock(), zlib.crc32(name.encode())
    while True:
        try:
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # fcntl(2) has either for a lock that another one holds
            if clock() >= seconds:
                yield False
                return
            time.sleep(LOOK_SECONDS)
            continue
        try:
            yield True
        finally:
            fcntl.lockf(locks, fcntl.LOCK_UN, 1, place)
        return
