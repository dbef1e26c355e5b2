"""Runs on a Ray node for a head elsewhere: an actor that keeps a `tplaunch join` going in a process.

Ray moves and restarts the actor. The process ends with it: it watches its standard input, which the actor
holds open. Nothing here needs Ray, nor does the process.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tplaunch
from tplaunch.launcher.device_choice import NONE
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.processors import means_processors

GRACE_SECONDS = 5.0
MODULE = "tplaunch.launcher.ray_nodes.agent_process"


def count_devices(devices: str) -> int:
    """Returns how many of the devices that --devices names this node has; processors count where named."""
    choices = select_devices(devices)
    is_named = any(means_processors(part.strip().lower()) for part in devices.split(","))
    return sum(choice.index is not None for choice in choices) or (len(choices) if is_named else 0)


def devices_in_turn(devices: str, num_ranks: int) -> str:
    """Returns the devices of so many ranks as --devices takes them, in turn where there are fewer."""
    if not num_ranks:
        return NONE
    choices = itertools.islice(itertools.cycle(select_devices(devices)), num_ranks)
    return ",".join(choice.word for choice in choices)


class NodeAgent:
    """The actor. It joins the head as soon as it is made, and anew where Ray makes it anew."""

    def __init__(self, settings: dict[str, object]) -> None:
        """settings: what agent_process.Settings has, as plain data."""
        folder = Path(tplaunch.__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, cwd=folder, start_new_session=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings).encode() + b"\n")
        self._process.stdin.flush()

    def release(self) -> str:
        """Returns tplaunch's release here, which also says that the actor runs."""
        return tplaunch.__version__

    def processes(self) -> Sequence[int]:
        """Returns the ids of the actor's process and of the one that joins."""
        return os.getpid(), self._process.pid

    def end(self) -> int | None:
        """Ends the process in order; returns its exit code, None where it had to be killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None
