"""Products of bytes by each processor's instructions, which are exact, against NumPy."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import pytest

from tplaunch.worker.cpu.dot_instructions import (
    HELD_SIGNED,
    SIGNED_DOTS,
    SIGNED_ZERO,
    SMALL_DOTS,
    dot_instructions,
)
from tplaunch.worker.cpu.target import Target, host

INTEL, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
# Instructions that each of these has, and that no other one of them uses.
OTHERS = {
    "icelake-server": (Target(INTEL, "icelake-server", "+avx512f,+avx512bw,+avx512vnni"), "vpdpbusd"),
    "alderlake": (Target(INTEL, "alderlake", "+avx2,+avxvnni"), "vpdpbusd"),
    "haswell": (Target(INTEL, "haswell", "+avx2"), "vpmaddubsw"),
    "neoverse-n1": (Target(ARM, "neoverse-n1", "+dotprod"), "sdot"),
    "cortex-a72": (Target(ARM, "cortex-a72", ""), "smull"),
}
Bytes = npt.NDArray[np.int8]


def with_entry(text: str) -> str:
    """Adds functions that call the others with addresses: `tried_small` and `tried_signed`."""
    entries = ""
    for name, dots, held in (
        ("tried_small", SMALL_DOTS, "%w"),
        ("tried_signed", SIGNED_DOTS, "%held"),
    ):
        entries += f"""
define void @{name}(ptr %weights, ptr %four, ptr %sums) {{
  %w = load <16 x i32>, ptr %weights, align 4
  %held = call <16 x i32> @{HELD_SIGNED}(<16 x i32> %w)
  %x = load i32, ptr %four, align 4
  %before = load <16 x i32>, ptr %sums, align 4
  %found = call <16 x i32> @{dots}(<16 x i32> %before, <16 x i32> {held}, i32 %x)
  store <16 x i32> %found, ptr %sums, align 4
  ret void
}}
"""
    return text + entries + f"define i32 @zero() {{\n  %z = call i32 @{SIGNED_ZERO}()\n  ret i32 %z\n}}\n"


def here() -> dict[str, str]:
    """Returns the functions of this processor, and those of others that it can run."""
    host()  # LLVM is initialized
    found = {"its own": dot_instructions(host()), "any": dot_instructions(Target(ARM, "", ""))}
    if platform.machine() == "x86_64":
        found["AVX2"] = dot_instructions(OTHERS["haswell"][0])
    return found


def check(text: str) -> None:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(with_entry(text)), host().machine(jit=True))
    engine.finalize_object()

    def function(name: str) -> Callable[..., None]:
        address = engine.get_function_address(name)
        return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(address)

    zero = ctypes.CFUNCTYPE(ctypes.c_int)(engine.get_function_address("zero"))()
    rng = np.random.default_rng(1)
    for name, least, most, held_zero in (("tried_small", 0, 127, 0), ("tried_signed", -128, 127, zero)):
        run = function(name)
        for round_number in range(200):
            ends, fours = np.array((least, most), np.int8), np.array((-127, 127), np.int8)
            weights: Bytes = rng.integers(least, most + 1, (16, 4)).astype(np.int8)
            four: Bytes = rng.integers(-127, 128, 4).astype(np.int8)
            if round_number % 2:  # the largest sums
                weights, four = rng.choice(ends, (16, 4)), rng.choice(fours, 4)
            before = rng.integers(-(2**28), 2**28, 16).astype(np.int32)
            sums = before.copy()
            run(weights.ctypes.data, four.ctypes.data, sums.ctypes.data)
            exact = before + (weights.astype(np.int32) + held_zero) @ four.astype(np.int32)
            np.testing.assert_array_equal(sums, exact)


@pytest.mark.parametrize("kind", here())
def test_sums_are_exact(kind: str) -> None:
    check(here()[kind])


@pytest.mark.parametrize("name", OTHERS)
def test_each_processor_has_its_instruction(name: str) -> None:
    target, instruction = OTHERS[name]
    module = llvm.parse_assembly(with_entry(dot_instructions(target)))
    module.triple = target.triple
    assembly = target.machine().emit_assembly(module)
    names = {word for line in assembly.splitlines() for word in line.split()[:2]}  # {vex} may come first
    assert instruction in names, name
    others = {found for _, found in OTHERS.values()} - {instruction}
    assert not names & others, name
