"""Says in words for people how a process ended."""

from __future__ import annotations

import signal

HINTS: dict[int, str] = {
    signal.SIGBUS: "a file that is in use became shorter, or a disk is full",
    signal.SIGKILL: "if nobody did, memory ran out and the kernel did; dmesg tells",
    signal.SIGSYS: "a sandbox forbids one of its system calls",
    signal.SIGXCPU: "its CPU time is limited; see `ulimit -t`",
}


def end_reason(code: int) -> str:
    """Words a process's return code: the exit code, or the signal that ended it and what that may mean."""
    if code >= 0:
        return f"exit code {code}"
    hint = HINTS.get(-code)
    return f"killed by {signal_name(-code)}" + (f" ({hint})" if hint else "")


def signal_name(number: int) -> str:
    """Gives every signal a name: Python has none for most of the real-time ones."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(code: int, errors: str) -> str:
    """Says of a process how it ended, with the last line that it wrote to standard error, if it wrote any."""
    lines = errors.strip().splitlines()
    how = f"ended with code {code}" if code >= 0 else f"was {end_reason(code)}"
    return f"{how}: {lines[-1] if lines else 'no message'}" if lines or code >= 0 else how
