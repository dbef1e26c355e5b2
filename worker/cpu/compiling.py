"""Compiles a kernel by Numba and LLVM into object code, for this processor or another one.

A module of its own: a start that finds its kernels in the cache imports no Numba.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any, get_type_hints

import llvmlite.binding as llvm
from numba import types

from tplaunch.worker.cpu.instructions import instructions
from tplaunch.worker.cpu.numba_text import numba_text
from tplaunch.worker.cpu.target import ENTRY, Target, host

KERNELS = "tplaunch.worker.cpu.kernels"
TYPES = {int: types.int64, float: types.float32}
# Modules whose loops compute several vectors at once already: unrolling them takes half of a compiler's time,
# and makes code that is twice as long and slower. A row's products by Q4_K are a tenth slower without.
NOT_UNROLLED = (f"{KERNELS}.attention",)
IN_LLVM = {int: "i64", float: "float"}


def kernel_function(module: str, kernel: str) -> Callable[..., None]:
    """Returns a kernel of kernels/ by its name; a factory makes it of what follows an @."""
    name, _, variant = kernel.partition("@")
    function: Callable[..., Any] = getattr(importlib.import_module(f"{KERNELS}.{module}"), name)
    return function(variant) if variant else function


def compiled_for_host(name: str) -> tuple[list[str], bytes]:
    """Returns the parameters of a kernel, module.function, and object code for this processor."""
    module, _, function = name.partition(".")
    return compiled(kernel_function(module, function), host())


def compiled(function: Callable[..., None], target: Target) -> tuple[list[str], bytes]:
    """Returns the parameters of a kernel, and object code with the function ENTRY.

    That takes the address of the arguments, 64 bits each, `thread` and `num_threads`.
    """
    parameters, text = in_llvm(function)
    machine = target.machine()
    module = optimized(text, target, machine, unrolls=function.__module__ not in NOT_UNROLLED)
    code: bytes = machine.emit_object(module)
    return parameters, code


def in_llvm(function: Callable[..., None]) -> tuple[list[str], str]:
    """Returns the parameters of a kernel, and LLVM's text with the function ENTRY."""
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)
    if parameters[-2:] != ["thread", "num_threads"]:
        raise TypeError(f"the last parameters of {function.__name__} are not thread and num_threads")
    name, text = numba_text(function, [TYPES[hints[name]] for name in parameters])
    return parameters[:-2], text + _entry(name, [hints[name] for name in parameters[:-2]])


def _entry(function: str, held: list[type]) -> str:
    """Makes the function that calls Numba's, which writes what it returns, and if it failed, to places."""
    loads = []
    for index, kind in enumerate(held):
        loads.append(f"  %p{index} = getelementptr i64, ptr %words, i64 {index}")
        loads.append(f"  %a{index} = load {IN_LLVM[kind]}, ptr %p{index}, align 8")
    values = [f"{IN_LLVM[kind]} %a{index}" for index, kind in enumerate(held)]
    arguments = ", ".join(["ptr %nothing", "ptr %failure", *values, "i64 %thread", "i64 %num_threads"])
    lines = [
        f"define void @{ENTRY}(ptr %words, i64 %thread, i64 %num_threads) {{",
        "  %nothing = alloca ptr",
        "  %failure = alloca ptr",
        *loads,
        f"  %status = call i32 @{json.dumps(function)}({arguments})",
        "  ret void",
        "}",
    ]
    return "\n" + "\n".join(lines) + "\n"


def optimized(text: str, target: Target, machine: Any, unrolls: bool = True) -> Any:
    """Makes of LLVM's text a module for a processor."""
    lines = [line for line in text.splitlines() if not line.startswith(("target ", "source_filename"))]
    module = llvm.parse_assembly("\n".join(lines))
    module.link_in(llvm.parse_assembly(instructions(target)))
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    for function in module.functions:
        if not function.is_declaration and function.name != ENTRY:
            function.linkage = "internal"
    for held in module.global_variables:
        if not held.is_declaration:
            held.linkage = "internal"
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3 if unrolls else 2)
    options.loop_unrolling = unrolls
    options.loop_vectorization = False  # vectors are stated; what is left are addresses
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


def needs(module: Any) -> list[str]:
    """Returns the names that object code leaves to the process it is loaded into."""
    return [function.name for function in module.functions if function.is_declaration]
