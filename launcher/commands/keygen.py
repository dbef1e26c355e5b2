"""`tplaunch keygen`: makes the key file by which the hosts of a run know each other."""

from __future__ import annotations

from pathlib import Path

from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.keys import make_key_file, usual_key_file


def keygen(path: Path | None) -> int:
    """Writes a new key file, at the usual place where none is named. Raises UsageError."""
    path = path or usual_key_file()
    if path is None:
        raise UsageError("there is no home folder for the key file; name a file: tplaunch keygen FILE")
    make_key_file(path)
    print(f"wrote {path}: copy it to every host of the run, for example with scp; who has it can join")
    return 0
