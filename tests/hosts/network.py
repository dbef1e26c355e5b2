"""Several hosts on one machine: a network namespace each, with cables to a switch that fail when asked to."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.command_line import CommandLine
from tests.hosts.namespaces import (
    add_namespace,
    command_in,
    ip,
    processes_in,
    remove_namespace,
    search_path,
    tc,
)
from tests.hosts.running import Running

RELAY = Path(__file__).with_name("relay.py")
BURST_BYTES = 256 << 10  # that a rate lets through at once: some of the largest frames, of 64 KiB
PRIVATE_FILES = {"control"}  # in the folder of a run: a socket, and no secret
LONGEST_QUEUE = "200ms"


@dataclass(frozen=True)
class Stalls:
    """Nothing passes for `lasts` seconds, again and again: `every` so many seconds."""

    every: float
    lasts: float


class Host:
    """A machine: an address, a name, folders of its own, and the processes that the test starts on it."""

    def __init__(self, number: int, environment: Mapping[str, str], cache: Path) -> None:
        self.number = number
        self.name = f"host{number}"  # as its processes see it
        self.address = f"10.77.0.{number + 1}"
        self.port = f"port{number}"  # of the switch
        self.namespace = add_namespace(self.name)
        program = self.command(sys.executable, "-m", "tplaunch")
        self.tplaunch = CommandLine({**environment, "PATH": search_path()}, cache, program)
        self.running: list[Running] = []
        self.was_killed = False  # a run of tplaunch here, so that nobody was left to remove its folder

    def command(self, *arguments: str | Path) -> list[str]:
        return command_in(self.namespace, self.name, [str(argument) for argument in arguments])

    def run(
        self, *command: str | Path, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs any command here to its end, in the environment of this host's runs of tplaunch."""
        return subprocess.run(
            self.command(*command),
            env={**self.tplaunch.environment, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def start(self, *command: str | Path, env: Mapping[str, str] | None = None) -> Running:
        """Starts any command here."""
        running = Running(self.command(*command), {**self.tplaunch.environment, **(env or {})})
        self.running.append(running)
        self.tplaunch.adopt(running.process)
        return running

    def start_tplaunch(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Running:
        """Starts `tplaunch ARGUMENTS` here."""
        return self.start(sys.executable, "-m", "tplaunch", *arguments, env=env)

    def end(self) -> None:
        """Ends what the test started here, the latest first."""
        for running in reversed(self.running):
            running.end()
            self.tplaunch.printed += running.text
        if self.was_killed:
            for folder in (self.tplaunch.folder / "tmp").glob("tplaunch-*"):
                assert {path.name for path in folder.iterdir()} <= PRIVATE_FILES
                shutil.rmtree(folder)

    def leftovers(self) -> list[str]:
        """Lists the processes that run here yet."""
        return [f"process {pid} on {self.name}" for pid in processes_in(self.namespace)]

    def report(self) -> str:
        """Returns what all processes here have printed."""
        parts = [
            f"----- {self.name}: {' '.join(map(str, running.process.args[-12:]))}"  # type: ignore[index]
            f" -> {running.process.returncode}\n{running.text}"
            for running in self.running
        ]
        return "\n".join(parts)


class Network:
    """Hosts that are cabled to one switch: at first as fast as the machine copies, without delay."""

    def __init__(self, num_hosts: int, environment: Mapping[str, str], cache: Path) -> None:
        self._relay: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.hosts: list[Host] = []
        with ExitStack() as failing:  # what a failure in the middle has made goes
            failing.callback(self._remove)
            self.switch = add_namespace("switch")
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "addrgenmode", "none", "up")
            for number in range(num_hosts):
                self.hosts.append(Host(number, environment, cache))
                self._cable(self.hosts[-1])
            failing.pop_all()

    def _cable(self, host: Host) -> None:
        inner, outer = ("-n", host.namespace), ("-n", self.switch)
        ip(*inner, "link", "add", "eth0", "type", "veth", "peer", "name", host.port, "netns", self.switch)
        ip(
            *inner,
            "link",
            "set",
            "eth0",
            "addrgenmode",
            "none",
            "address",
            f"02:00:00:00:00:{host.number:02x}",
        )
        ip(*inner, "address", "add", f"{host.address}/24", "dev", "eth0")
        ip(*inner, "link", "set", "eth0", "up")
        ip(*outer, "link", "set", host.port, "addrgenmode", "none", "master", "bridge", "up")

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def link(self, *, rate: str = "", delay: float = 0.0, stalls: Stalls | None = None) -> None:
        """Makes all cables so; what is not named is as at first.

        rate: of each cable, in each direction, in tc's units: `1gbit`.
        delay: seconds from any host to any other, one way. A switch in Python has the frames then, and with
        stalls: it passes some Gbit/s where they are large.
        """
        for host in self.hosts:
            for namespace, port in ((host.namespace, "eth0"), (self.switch, host.port)):
                shape(namespace, port, rate)
        self._end_relay()
        for host in self.hosts:
            place = ["nomaster"] if delay or stalls else ["master", "bridge"]
            ip("-n", self.switch, "link", "set", host.port, *place)
        if delay or stalls:
            self._start_relay(delay, stalls or Stalls(0, 0))

    def unplug(self, host: Host) -> None:
        """Takes the cable out at the switch: both ends see no carrier."""
        ip("-n", self.switch, "link", "set", host.port, "down")

    def plug(self, host: Host) -> None:
        ip("-n", self.switch, "link", "set", host.port, "up")

    def _start_relay(self, delay: float, stalls: Stalls) -> None:
        numbers = map(str, (delay, stalls.every, stalls.lasts))
        command = [sys.executable, "-I", str(RELAY), *numbers, *(host.port for host in self.hosts)]
        environment = {**os.environ, "PATH": search_path()}
        self._relay = subprocess.Popen(
            command_in(self.switch, "switch", command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == b"forwarding\n", "the switch of the tests does not start"

    def _end_relay(self) -> None:
        if self._relay is not None:
            self._relay.communicate(timeout=10)  # closes its standard input
            self._relay = None

    def close(self) -> None:
        """Ends all that the test started here; AssertionError where something else is left. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for host in self.hosts:
            host.end()
        self._end_relay()
        reports = [host.report() for host in self.hosts if host.running]
        print("\n".join(reports))  # shown where the test fails
        left = []
        for host in self.hosts:
            try:
                host.tplaunch.close()
            except AssertionError as error:
                left.append(f"{host.name}: {error}")
            left += host.leftovers()
        self._remove()
        assert not left, "\n".join(left)

    def _remove(self) -> None:
        for namespace in [host.namespace for host in self.hosts] + [self.switch]:
            remove_namespace(namespace)


def shape(namespace: str, port: str, rate: str) -> None:
    """Lets a link send at this rate, or at any where it is empty."""
    if "qdisc tbf" in tc(namespace, "show", "dev", port):
        tc(namespace, "delete", "dev", port, "root")
    if rate:
        limits = ("rate", rate, "burst", str(BURST_BYTES), "latency", LONGEST_QUEUE)
        tc(namespace, "add", "dev", port, "root", "tbf", *limits)
