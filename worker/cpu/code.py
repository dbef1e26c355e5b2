"""Kernels as functions in this process: their code, from the user's cache folder or compiled now.

Code is kept for a processor, by a digest of every source that it may come from and of Numba's and LLVM's
versions. A file is a digest of what follows, the parameters' names, and object code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from tplaunch.worker.cpu.target import ENTRY, Target, host
from tplaunch.worker.folders import make_private, open_regular, replace_file

DIGEST_BYTES = 32
MAX_BYTES = 4 << 20  # of a kernel's code
PACKAGES = ("numba", "llvmlite")

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

    def __getitem__(self, name: str) -> Kernel:
        """name: module.function, below kernels/."""
        if name not in self._held:
            self._held[name] = self._kept(name) or self._compiled(name)
        return self._held[name]

    def _compiled(self, name: str) -> Kernel:
        from tplaunch.worker.cpu.compiling import compiled, kernel_function

        module, _, function = name.partition(".")
        parameters, code = compiled(kernel_function(module, function), host())
        self.num_compiled += 1
        if self._folder is not None:
            content = json.dumps(parameters).encode() + b"\n" + code
            try:
                make_private(self._folder)
                replace_file(self._folder / name, hashlib.sha256(content).digest() + content)
            except OSError as error:
                log.info("the kernel %s is not kept: %s", name, error)
        return Kernel(name, parameters, code)

    def _kept(self, name: str) -> Kernel | None:
        """Returns a kernel of an earlier start, None where there is none that is whole."""
        if self._folder is None:
            return None
        with suppress(OSError), open_regular(self._folder / name) as file:
            digest, content = file.read(DIGEST_BYTES), file.read(MAX_BYTES)
            if hashlib.sha256(content).digest() == digest:
                parameters, _, code = content.partition(b"\n")
                return Kernel(name, json.loads(parameters), code)
        return None


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
    found = hashlib.sha256(repr((target, [version(package) for package in PACKAGES])).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(source.read_bytes())
    return found.hexdigest()[:DIGEST_BYTES]
