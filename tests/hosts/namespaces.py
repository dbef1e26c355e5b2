"""Makes network namespaces, and removes them, also those that a killed test run has left.

Their names begin with the process that made them, so that runs beside each other do not meet.
Needs iproute2 and root. Knows nothing of tplaunch.
"""

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

PREFIX = "tplaunch-test"
PLACE = Path("/run/netns")  # where `ip netns` keeps names
_numbers = itertools.count()


def own_mark() -> str:
    """Returns this process's part of a name: its id and when it started, for ids are used again."""
    return mark_of(psutil.Process())


def mark_of(process: psutil.Process) -> str:
    return f"{PREFIX}-{process.pid}-{int(process.create_time() * 100)}"


@cache
def why_none() -> str:
    """Returns why this machine makes no network namespaces, in words; an empty string where it does."""
    missing = [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool, path=search_path()) is None]
    if missing:
        return f"missing here: {', '.join(missing)}; install iproute2 and util-linux"
    remove_abandoned()
    try:
        name = add_namespace("probe")
        try:
            ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
            ip("-n", name, "link", "add", "bridge", "type", "bridge")
            tc(name, "add", "dev", "one", "root", "tbf", "rate", "1gbit", "burst", "256k", "latency", "50ms")
        finally:
            remove_namespace(name)
    except RuntimeError as error:
        return f"this user may make no network namespaces (root may, in a privileged container): {error}"
    return ""


def search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def add_namespace(label: str) -> str:
    """Makes a namespace in which loopback works. Returns its name."""
    name = f"{own_mark()}-{next(_numbers)}-{label}"
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    return name


def remove_namespace(name: str) -> None:
    """Ends the processes that are left in it, and gives its links and addresses back."""
    for pid in processes_in(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ip("netns", "delete", name)


def processes_in(name: str) -> list[int]:
    """Returns the ids of the processes that have this namespace as theirs."""
    return [int(line) for line in ip("netns", "pids", name).split()]


def remove_abandoned() -> None:
    """Removes namespaces whose makers live no more."""
    living = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            living.add(mark_of(process))
    for path in PLACE.glob(f"{PREFIX}-*"):
        if path.name.rsplit("-", 2)[0] not in living:
            with suppress(RuntimeError):  # another process of the tests was faster
                remove_namespace(path.name)


def ip(*arguments: str) -> str:
    """Runs `ip`. Raises RuntimeError with what it says."""
    return _run("ip", *arguments)


def tc(name: str, *arguments: str) -> str:
    """Runs `tc qdisc` in a namespace."""
    return _run("tc", "-n", name, "qdisc", *arguments)


def _run(*command: str) -> str:
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=30)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout


# sh gives the process its host's name, and then becomes the program: the process id stays the same.
_NAMED = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'


def command_in(name: str, host_name: str, command: Sequence[str]) -> list[str]:
    """Returns the command that runs one in a namespace, on a machine of this name, as the same process."""
    return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", _NAMED, host_name, *command]
