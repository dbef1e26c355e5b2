"""Finds the functions that run ops in the modules of a device: the ops are listed once, in common.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args, get_type_hints

from tplaunch.worker.ops.common import Op

OPS: tuple[type, ...] = get_args(Op)


def by_op(context: type, *modules: ModuleType) -> dict[type, Callable[[Any, Any], Any]]:
    """The public functions of the modules that take an op and a `context`, by the class of the op.

    Raises TypeError where an op has none, or two.
    """
    found: dict[type, Callable[[Any, Any], Any]] = {}
    for module in modules:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("_") or function.__module__ != module.__name__:
                continue
            hints = get_type_hints(function)
            op, *others = (hints[parameter] for parameter in inspect.signature(function).parameters)
            if others == [context] and op in OPS:
                if op in found:
                    raise TypeError(f"{op.__name__} is run by both {found[op].__name__} and {name}")
                found[op] = function
    missing = [op.__name__ for op in OPS if op not in found]
    if missing:
        names = ", ".join(module.__name__ for module in modules)
        raise TypeError(f"nothing runs {', '.join(missing)} in {names}")
    return found
