"""Kernels as functions in this process: their code, from the user's cache folder or compiled now.

Code is kept for a processor, by a digest of every source that it may come from and of Numba's and LLVM's
versions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llvmlite.binding as llvm

from tplaunch.worker.cpu.compile_job import NO_NUMBA
from tplaunch.worker.cpu.kept_code import (
    IDENTITY_LENGTH,
    forget_unused,
    note_use,
    read_kernel,
    write_kernel,
)
from tplaunch.worker.cpu.target import ENTRY, Target, host
from tplaunch.worker.folders import is_private, make_private, temporary_parents
from tplaunch.worker.own_python import python_words

MAX_PROCESSES = 4  # that compile: each takes 150 MB for as long
PACKAGES = ("numba", "llvmlite")
SLOW = ("attention.", "expert_products.", "products.", "recurrent.")  # what takes longest begins first
COMPILE = "from tplaunch.worker.cpu.compile_job import main\nsys.exit(main())"

log = logging.getLogger("worker")


class Kernel:
    """A kernel that can be called by its address."""

    def __init__(self, name: str, parameters: list[str], code: bytes) -> None:
        self.name, self.parameters = name, parameters
        self._engine = _loaded(code)  # code lives as long as its engine
        self.address: int = self._engine.get_function_address(ENTRY)


class Kernels:
    """All kernels of a device by name, each compiled when it is first asked for.

    folder: where code is kept, None to keep none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._held: dict[str, Kernel] = {}
        self.num_compiled = 0
        self._folder = None if folder is None else folder / "kernels" / kernels_identity()
        self.fault = ""  # why what is compiled can't be kept, as far as that is known
        if self._folder is not None:
            self.fault = _fault(self._folder)
            note_use(self._folder)

    def __getitem__(self, name: str) -> Kernel:
        """name: module.function, below kernels/."""
        if name not in self._held and not self._take_kept(name):
            self._held[name] = self._compiled(name)
        return self._held[name]

    def missing(self, names: Collection[str]) -> list[str]:
        """Returns which of these have to be compiled; takes the others."""
        return [name for name in sorted(names) if name not in self._held and not self._take_kept(name)]

    def compile(self, names: Collection[str], on_compiled: Callable[[str], None] = lambda name: None) -> None:
        """Compiles kernels in other processes, as many as this one has cores.

        Where they can't be kept, `fault` says so. on_compiled: is told each that they have done. Raises
        ImportError without Numba, RuntimeError for what can't be compiled.
        """
        left = sorted(names, key=lambda name: (not name.startswith(SLOW), name))  # what takes long first
        end = ""
        if (folder := self._kept_folder()) is not None:
            forget_unused(folder)  # what is compiled anew may have been compiled for another version before
            end = self._compile_in(folder, left, on_compiled)
            left = [name for name in left if name not in self._held]
            if left:  # the disk may be full
                self.fault = f"{folder} can't be written; its disk may be full"
        if left:
            with TemporaryDirectory(prefix="tplaunch-", dir=next(temporary_parents())) as temporary:
                end = self._compile_in(Path(temporary), left, on_compiled)
        if left := [name for name in left if name not in self._held]:
            raise RuntimeError(f"the kernel {left[0]} can't be compiled{end}")

    def _compile_in(self, folder: Path, names: list[str], on_compiled: Callable[[str], None]) -> str:
        """Has kernels compiled into a folder, and takes those that are there then; says how that ended."""

        def count(name: str) -> None:
            self.num_compiled += 1
            on_compiled(name)

        end = _compile_elsewhere(folder, names, count)
        for name in names:
            self._take(folder, name)
        return end

    def _kept_folder(self) -> Path | None:
        """Returns the folder where it can be written, and makes it where it is missing."""
        if self._folder is None or self.fault:
            return None
        try:
            make_private(self._folder)
        except OSError as error:
            self.fault = f"{self._folder} can't be made: {error.strerror}"
            return None
        return self._folder

    def _compiled(self, name: str) -> Kernel:
        from tplaunch.worker.cpu.compiling import compiled_for_host

        parameters, code = compiled_for_host(name)
        self.num_compiled += 1
        if (folder := self._kept_folder()) is not None:
            try:
                write_kernel(folder / name, parameters, code)
            except OSError as error:
                log.info("the kernel %s is not kept: %s", name, error)
        return Kernel(name, parameters, code)

    def _take_kept(self, name: str) -> bool:
        return self._folder is not None and not self.fault and self._take(self._folder, name)

    def _take(self, folder: Path, name: str) -> bool:
        """Returns false where a folder does not have a kernel that is whole."""
        if (found := read_kernel(folder / name)) is not None:
            self._held[name] = Kernel(name, *found)
        return found is not None


def _fault(folder: Path) -> str:
    """Says why a folder that is there is not used; nothing where it is, or is missing."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{folder} can't be used: {error.strerror}"
    if not is_private(found):
        return f"{folder} is another user's, or others may write there"
    return "" if os.access(folder, os.W_OK) else f"{folder} can't be written"


def _compile_elsewhere(folder: Path, names: list[str], on_compiled: Callable[[str], None]) -> str:
    """Has processes compile kernels into a folder; on_compiled is told each that they have done.

    Returns how one that failed has ended, to end a sentence with; nothing where none did. Raises ImportError.
    """
    import subprocess  # a start that finds its kernels does without

    count = min(len(names), len(os.sched_getaffinity(0)), MAX_PROCESSES)
    command = [*python_words(COMPILE), str(os.getpid()), str(folder), *names]
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as answers:
        try:
            processes = [
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing) for _ in range(count)
            ]
        finally:
            os.close(writing)
        said = []
        for line in answers:  # until the last process has ended
            said.append(line.strip())
            if said[-1] in names:
                on_compiled(said[-1])
    statuses = [process.wait() for process in processes]
    if NO_NUMBA in statuses:
        raise ImportError(said[-1])
    failures = [status for status in statuses if status]
    return f": a process that compiles ended with {failures[-1]}" if failures else ""


def _loaded(code: bytes) -> Any:
    """Links object code into this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), host().machine(jit=True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def kernels_identity() -> str:
    """Names all kernels as they are compiled for this processor: others have another name."""
    return _identity(host())


@cache
def _identity(target: Target) -> str:
    """Returns a name for what code comes from."""
    found = hashlib.sha256(repr((target, [_version(package) for package in PACKAGES])).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(source.read_bytes())
    return found.hexdigest()[:IDENTITY_LENGTH]


def _version(package: str) -> str:
    """Returns the version of a package from the name of the folder that tells of it (PEP 376).

    importlib.metadata finds the same, and takes longer to import than all kernels to load.
    """
    found = importlib.util.find_spec(package)
    folder = Path(found.origin).parent.parent if found is not None and found.origin else Path()
    names = sorted(path.name for path in folder.glob(f"{package}-*.dist-info"))
    if not names:
        from importlib.metadata import version

        return version(package)
    return ",".join(names)
