"""Starts a head and hosts that join it, each in its own network namespace, with one key for all."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.drivers import REPOSITORY
from tests.hosts.network import Host, Network
from tests.hosts.running import Running
from tests.patience import PATIENCE

DEMO = REPOSITORY / "tplaunch" / "demo-stories.gguf"
PROMPT = "Once upon a time"
WAITS = PATIENCE  # seconds, of a test for what should take few


def make_key(host: Host, folder: Path) -> Path:
    """Makes a key file by the command line."""
    path = folder / "hosts.key"
    host.tplaunch("keygen", path, check=True)
    return path


def start_head(host: Host, key: Path, *arguments: str | Path, num_hosts: int = 2) -> Running:
    """Starts a command that runs the demo model as the head, on NumPy; returns once it waits for others."""
    command = arguments[:1] if arguments and arguments[0] in ("serve", "bench", "eval", "batch") else ()
    head = host.start_tplaunch(
        *command,
        *("--hosts", str(num_hosts), "--key", key, "--devices", "numpy"),
        *("-m", DEMO, *arguments[len(command) :]),
    )
    head.stderr.wait_for("tplaunch join [^\n]+\n", WAITS)
    return head


def join_command(head: Running) -> list[str]:
    """Returns the words behind `tplaunch` of the command that the head has printed."""
    command = head.stderr.wait_for("tplaunch (join [^\n]+)\n", WAITS)[1]
    return shlex.split(command)


def start_joiner(host: Host, head: Running, *arguments: str | Path, devices: str = "numpy") -> Running:
    """Starts the command that the head has printed, with this host's devices and the demo model."""
    model = () if "--model" in arguments or "--model-dir" in arguments else ("--model", DEMO)
    return host.start_tplaunch(*join_command(head), "--devices", devices, *model, *arguments)


def started(
    network: Network, tmp_path: Path, *arguments: str | Path, devices: Sequence[str] = ("numpy",)
) -> tuple[Running, list[Running]]:
    """A head on the first host, and a joiner on each other one, by its devices; the ranks run."""
    key = make_key(network[0], tmp_path)
    head = start_head(network[0], key, *arguments, num_hosts=len(devices) + 1)
    joiners = []
    for host, wanted in zip(list(network)[1:], devices, strict=True):
        joiners.append(start_joiner(host, head, devices=wanted))
        joiners[-1].stderr.wait_for("this is host", WAITS)
    return head, joiners


def tokens_of(running: Running) -> list[int]:
    """Waits for a run with --json to end well; returns its tokens."""
    assert running.wait(WAITS) == 0, running.text
    answer: dict[str, Any] = json.loads(running.stdout.all())
    tokens: list[int] = answer["tokens"]
    return tokens
