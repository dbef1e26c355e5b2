"""Starts workers by this Python, with this package, and with no other that has its name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tplaunch

# As `python -m tplaunch.worker`, but sure to find the package of this process: -m looks in the current folder
# first, and PYTHONPATH comes before where it is installed. Nothing is put before Python's own modules.
# Beats begin before all that takes time to import.
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
from tplaunch.worker.beating import beat_as_told
beat_as_told(sys.argv)
from tplaunch.worker.__main__ import main
sys.exit(main())"""
# What says where Python looks for modules; a worker must not find others than this process does.
OPTIONS = {
    "isolated": "-I",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "no_site": "-S",
    "safe_path": "-P",
}


def _options() -> list[str]:
    return [option for flag, option in OPTIONS.items() if getattr(sys.flags, flag, 0)]


WORKER_COMMAND = [sys.executable, *_options(), "-c", BOOTSTRAP]


def job_words() -> list[str]:
    """The words before a job's own: of a worker's process that ends with this one."""
    return [*WORKER_COMMAND, f"--parent={os.getpid()}"]
