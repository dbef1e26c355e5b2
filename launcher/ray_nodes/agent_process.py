"""`tplaunch join` as an actor of Ray starts it: told by a line on standard input, at whose end it ends.

The key comes by that line, too, and lies in a private folder meanwhile: a command line is for all to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass

from tplaunch.launcher import signals


@dataclass(frozen=True)
class Settings:
    """How a node joins. secret: of the key file, in hexadecimal."""

    head: str
    secret: str
    devices: str
    num_ranks: int
    verbose: bool


def main() -> int:
    """Returns the exit code."""
    signals.exit_at_once()
    settings = Settings(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_input, daemon=True).start()
    from tplaunch.launcher.streams import prepare_streams

    prepare_streams()
    try:
        try:
            signals.raise_once()
            return _join(settings)
        finally:
            signals.ignore()
    except signals.Signalled as signalled:
        return signalled.exit_code


def _end_with_input() -> None:
    """Waits for the end of standard input: the actor is gone, or wants this process to end."""
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 10):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _join(settings: Settings) -> int:
    from tplaunch.launcher import cli
    from tplaunch.launcher.held_folders import held_temporary
    from tplaunch.launcher.hosts.keys import make_key_file
    from tplaunch.launcher.ray_nodes.agent import devices_in_turn

    with held_temporary("tplaunch-node-") as folder:
        make_key_file(folder / "hosts.key", bytes.fromhex(settings.secret))
        devices = devices_in_turn(settings.devices, settings.num_ranks)
        more = ("--verbose",) * settings.verbose
        return cli.main(
            ["join", settings.head, "--key", str(folder / "hosts.key"), "--devices", devices, *more]
        )


if __name__ == "__main__":
    sys.exit(main())
