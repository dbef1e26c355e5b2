"""Starts attacks on a host of the tests' network; see attacks.py."""

import sys
from pathlib import Path

from tests.hosts.network import Host
from tests.hosts.running import Running


def attack(attacker: Host, name: str, target: Host, port: int, *more: str | Path) -> Running:
    """Starts an attack; returns once it has begun."""
    command = (sys.executable, "-m", "tests.hosts.attacks", name, target.address, str(port), *more)
    running = attacker.start(*command)
    running.stdout.wait_for("attacking", 60)
    return running
