"""Numba's text of a kernel has all that the kernel needs, and Numba itself stays as it was."""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
from numba.core.registry import cpu_target

from tplaunch.worker.cpu.compiling import in_llvm, kernel_function, needs
from tplaunch.worker.cpu.instructions import instructions
from tplaunch.worker.cpu.target import host


def test_text_has_all_that_a_kernel_calls() -> None:
    _, text = in_llvm(kernel_function("products", "multiply@Q8_0"))
    lines = [line for line in text.splitlines() if not line.startswith("target ")]
    defined = {
        function.name
        for function in llvm.parse_assembly(instructions(host())).functions
        if not function.is_declaration
    }
    missing = set(needs(llvm.parse_assembly("\n".join(lines)))) - defined
    assert not {name for name in missing if not name.startswith("llvm.")}


def test_functions_are_not_loaded() -> None:
    codegen = cpu_target.target_context.codegen()
    before = set(codegen._engine._defined_symbols)
    in_llvm(kernel_function("latent", "multiply@Q4_0"))
    assert cpu_target.target_context.codegen() is codegen
    assert codegen._engine._defined_symbols == before


def test_numba_goes_on_loading_what_others_compile() -> None:
    in_llvm(kernel_function("running", "run"))
    assert numba.njit(lambda number: number + 1)(2) == 3
