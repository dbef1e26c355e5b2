"""Every kernel compiles for other processors, too, and calls nothing that they may lack."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.cpu import kernels
from tplaunch.worker.cpu.compiling import in_llvm, kernel_function, optimized
from tplaunch.worker.cpu.integer_layout import FORMS
from tplaunch.worker.cpu.target import ENTRY, Target

TARGETS = {
    "haswell": Target("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma,+f16c"),
    "skylake-avx512": Target("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512bw,+avx512vl"),
    "neoverse-n1": Target("aarch64-unknown-linux-gnu", "neoverse-n1", ""),
}
# Between the first and what most machines have that run the tests, so that three of its kernels will do.
SAMPLE = {"products.multiply@Q8_0", "products.multiply_integers@Q4_K", "attention.attend@f16"}
# What the C library of any of these has, and LLVM makes of loops.
OF_ANY_PROCESS = {"memset", "memcpy", "memmove"}


def _kernels() -> Iterator[tuple[str, str]]:
    """The module and the name of every kernel; experts and heads have the products of others in them."""
    for found in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"{kernels.__name__}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and list(inspect.signature(function).parameters)[
                -2:
            ] == [
                "thread",
                "num_threads",
            ]:
                yield found.name, name
    for weight_type in WEIGHT_TYPES:
        yield "products", f"multiply@{weight_type}"
    for weight_type in FORMS:
        yield "products", f"multiply_integers@{weight_type}"
    for kv_type in KV_TYPES:
        yield "caching", f"write@{kv_type}"
        yield "attention", f"attend@{kv_type}"
    for module_name in ("expert_products", "latent"):
        yield module_name, "multiply@Q4_0"


def calls_of(assembly: str) -> set[str]:
    """Returns the functions that are called by name, and not defined."""
    called = set(re.findall(r"^\s+(?:callq?|bl?|jmp)\s+([A-Za-z_][\w.$]*)(?:@PLT)?$", assembly, re.MULTILINE))
    defined = set(re.findall(r"^([A-Za-z_][\w.$]*):", assembly, re.MULTILINE))
    return called - defined


@pytest.mark.parametrize(
    ("module", "kernel"), [pytest.param(*found, id=".".join(found)) for found in _kernels()]
)
def test_compiles_for_other_processors(module: str, kernel: str) -> None:
    _, text = in_llvm(kernel_function(module, kernel))
    for name, target in TARGETS.items():
        if name == "skylake-avx512" and f"{module}.{kernel}" not in SAMPLE:
            continue
        machine = target.machine()
        assembly = machine.emit_assembly(optimized(text, target, machine))
        assert f"{ENTRY}:" in assembly, name
        assert calls_of(assembly) <= OF_ANY_PROCESS, name
