"""The processor that kernels are compiled for, as LLVM names it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm

ENTRY = "tplaunch_kernel"  # the function of a kernel's object code


@dataclass(frozen=True)
class Target:
    """A kind of processor: LLVM's triple, its name for it, and its features, as `+avx2,-avx512f`."""

    triple: str
    processor: str
    features: str

    @property
    def has_long_vectors(self) -> bool:
        """Tells if a register holds 16 lanes, and there are 32 of them."""
        return "+avx512f" in self.features.split(",")

    def machine(self, jit: bool = False) -> Any:
        """Returns LLVM's machine for this, also one to load code into this process.

        Raises RuntimeError for what LLVM does not know.
        """
        _initialize()
        found = llvm.Target.from_triple(self.triple)
        return found.create_target_machine(
            cpu=self.processor, features=self.features, opt=3, reloc="pic", codemodel="small", jit=jit
        )


@cache
def host() -> Target:
    """Returns this machine's processor."""
    _initialize()
    features = llvm.get_host_cpu_features().flatten()
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
