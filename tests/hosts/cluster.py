"""A run of tplaunch over the hosts of a network: the head, the hosts that join it, and their workers."""

import ctypes
import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests import patience
from tests.hosts.namespaces import PLACE, processes_in
from tests.hosts.network import Host, Network
from tests.hosts.running import Running
from tests.patience import PATIENCE
from tplaunch.launcher.hosts.keys import make_key_file

START = PATIENCE  # seconds until anything that starts on a busy machine is there
CLONE_NEWNET = 0x40000000


class Cluster:
    """Hosts that share a key. Each brings as many ranks as `ranks` says, all on the CPU with NumPy."""

    def __init__(
        self,
        network: Network,
        folder: Path,
        ranks: Sequence[int] = (),
        *,
        devices: str = "numpy",
        timeout: int = 60,  # seconds, --timeout
    ) -> None:
        self.network = network
        self.key = folder / "hosts.key"
        make_key_file(self.key)
        self._ranks = ranks or [1] * len(network.hosts)
        self._devices, self._timeout = devices, timeout

    def devices(self, host: Host) -> str:
        return ",".join([self._devices] * self._ranks[host.number])

    def start_head(
        self, *arguments: str | Path, hosts: int = 0, env: dict[str, str] | None = None
    ) -> Running:
        """Starts a command on the first host, which leads so many hosts, or all."""
        head = self.network[0]
        command, *rest = arguments
        options = ("--hosts", str(hosts or len(self.network.hosts)), "--key", self.key)
        words = (command, *options, "--devices", self.devices(head), "--timeout", str(self._timeout), *rest)
        return head.start_tplaunch(*words, env=env)

    def join(self, host: Host, folder: Path, *options: str | Path, key: Path | None = None) -> Running:
        """Starts `tplaunch join` on a host. folder: where it looks for the model."""
        where = (self.network[0].address, "--key", key or self.key, "--devices", self.devices(host))
        return host.start_tplaunch("join", *where, "--model-dir", folder, *options)

    def join_all(self, folder: Path) -> list[Running]:
        """Lets all hosts but the first join, in their order: the next once the last is known."""
        joiners = []
        for host in self.network.hosts[1:]:
            joiners.append(self.join(host, folder))
            joiners[-1].stderr.wait_for("this is host", START)
        return joiners

    def worker(self, rank: int) -> int:
        """Returns the process id of a rank's worker, once it runs."""
        return wait_for(lambda: self._find(rank), f"no worker of rank {rank}")

    def _find(self, rank: int) -> int | None:
        for host in self.network:
            for pid in processes_in(host.namespace):
                try:
                    if f"--rank={rank}" in psutil.Process(pid).cmdline():
                        return pid
                except psutil.Error:
                    continue
        return None


class Story:
    """A text that a server on a host streams."""

    def __init__(self, host: Host, port: int, **body: Any) -> None:
        self._client = http.client.HTTPConnection("127.0.0.1", port)
        self._client.sock = connect(host, port)
        fields = {"temperature": 0, "ignore_eos": True, "stream": True, **body}
        headers = {"Content-Type": "application/json"}
        self._client.request("POST", "/v1/completions", json.dumps(fields), headers)
        self._response: http.client.HTTPResponse | None = None
        self.text = ""
        self.failure = ""

    def read(self, num_events: int = 1 << 30) -> str:
        """Reads so many more pieces of the text, or to its end; returns all of it so far."""
        if self._response is None:
            self._response = self._client.getresponse()
            assert self._response.status == 200, self._response.read()
        while num_events > 0 and (line := self._response.readline()):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                self.failure = event["error"]["message"]
                continue
            self.text += "".join(choice["text"] for choice in event["choices"])
            num_events -= 1
        return self.text

    def __enter__(self) -> "Story":
        return self

    def __exit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()
        self._client.close()


def connect(host: Host, port: int) -> socket.socket:
    """Connects to a port of a host's loopback, from there."""
    found: list[socket.socket | OSError] = []

    def enter_and_connect() -> None:  # in a thread of its own, which stays in the namespace until it ends
        descriptor = os.open(PLACE / host.namespace, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            found.append(socket.create_connection(("127.0.0.1", port), timeout=90))
        except OSError as error:
            found.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=enter_and_connect)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, OSError):
        raise result
    return result


def port_of(server: Running) -> int:
    """Returns where `tplaunch serve` listens, once it does."""
    return int(server.stderr.wait_for(r"http://127\.0\.0\.1:(\d+)", START)[1])


def wait_for(find: Callable[[], int | None], complaint: str) -> int:
    """Polls, with a limit: there is nothing to select on in another process's start."""
    found: list[int | None] = []

    def look() -> bool:
        found[:] = [find()]
        return found[0] is not None

    patience.wait_for(look, complaint=complaint)
    assert found[0] is not None
    return found[0]


def complaint(running: Running) -> str:
    """Returns the last line of standard error, where a failure is said."""
    lines = [line for line in running.stderr.all().splitlines() if not re.match(r"tplaunch: context ", line)]
    return lines[-1] if lines else ""
