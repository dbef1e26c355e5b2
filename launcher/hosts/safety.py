"""Decides by what hosts know each other: a key file; on one machine, or where a person insists, nothing."""

from __future__ import annotations

from tplaunch.coordinator.curve import has_curve
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.keys import key_path, read_key_file, usual_key_file
from tplaunch.launcher.lines import alarm


def found_secret(key: str | None, insecure: bool, stays_here: bool, where: str) -> bytes | None:
    """Returns the secret of the key file; None for sockets that take in anybody.

    stays_here: the sockets can be reached from this machine alone. where: what is dialled or listened on, for
    people. Raises UsageError where a key is needed and there is none, RunError where ZeroMQ has no CURVE.
    """
    if insecure and key is not None:
        raise UsageError("--key and --insecure exclude each other; leave one of them out")
    file, usual = None if key is None else key_path(key), usual_key_file()
    if file is None and not insecure and usual is not None and usual.exists():
        file = usual
    if file is not None:
        if not has_curve():
            raise RunError("this ZeroMQ was built without CURVE, which keys need; install pyzmq's own wheel")
        return read_key_file(file)
    if insecure:
        alarm(
            f"--insecure: {where} is used without any protection; whoever is on that network can join, read"
            " prompts and answers, and change them"
        )
    elif not stays_here:
        place = "every host" if usual is None else f"{usual} on every host"
        raise UsageError(
            f"{where} is beyond this machine, and needs a key: `tplaunch keygen` makes one on the head; copy"
            f" that file to {place}, or name it by --key"
        )
    return None
