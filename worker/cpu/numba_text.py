"""Has Numba write LLVM's text of a function, and neither optimize it nor load it into this process.

It would do both for every function that a kernel is made of, which takes longer than to compile the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit, types
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.registry import cpu_target

from tplaunch.worker.cpu.options import OPTIONS


class TextLibrary(AOTCodeLibrary):  # type: ignore[misc]
    """Functions of LLVM as they were written, with the functions that they call."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        """Returns that there is none; Numba asks for it when the library is complete."""
        self._ensure_finalized()
        return 0


class TextCodegen(AOTCPUCodegen):  # type: ignore[misc]
    """Makes such libraries."""

    _library_class = TextLibrary

    def set_env(self, env_name: str, env: Any) -> None:
        """Sets nothing: it would be memory of functions that were loaded."""


def numba_text(function: Callable[..., None], parameters: list[Any]) -> tuple[str, str]:
    """Returns the name of a function in LLVM, and the text of all that it needs. parameters: their types."""
    with _text_only():
        dispatcher = njit(function, **OPTIONS)
        dispatcher.compile(types.void(*parameters))
        (result,) = dispatcher.overloads.values()
    return result.fndesc.llvm_func_name, str(result.library.get_llvm_str())


@contextmanager
def _text_only() -> Iterator[None]:
    """Numba asks its target for what makes libraries, and has no option for it."""
    context = cpu_target.target_context
    loading = context._internal_codegen
    context._internal_codegen = TextCodegen("kernels")
    try:
        yield
    finally:
        context._internal_codegen = loading
