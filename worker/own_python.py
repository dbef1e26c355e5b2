"""Starts processes by this Python, with this package, and with no other that has its name."""

from __future__ import annotations

import sys
from pathlib import Path

import tplaunch

# As `python -m`, but sure to find the package of this process: -m looks in the current folder first, and
# PYTHONPATH comes before where it is installed. Nothing is put before Python's own modules.
# Ctrl-C, Ctrl-\ and a closed terminal reach the whole foreground group; the launcher is the one to act.
PACKAGE = Path(tplaunch.__file__).resolve().parent
BOOTSTRAP = f"""import importlib.util, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.path = [*filter(None, sys.path)]
spec = importlib.util.spec_from_file_location("tplaunch", {str(PACKAGE / "__init__.py")!a},
    submodule_search_locations=[{str(PACKAGE)!a}])
sys.modules["tplaunch"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
"""
# What says where Python looks for modules; a process must not find others than this one does.
OPTIONS = {
    "isolated": "-I",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "no_site": "-S",
    "safe_path": "-P",
}


def python_words(code: str) -> list[str]:
    """Returns the words that start a process which runs some lines."""
    options = [option for flag, option in OPTIONS.items() if getattr(sys.flags, flag, 0)]
    return [sys.executable, *options, "-c", BOOTSTRAP + code]
