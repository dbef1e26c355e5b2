"""Opens the hosts of a run: this one alone, or this one as the head of others that join it."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace

from tplaunch.coordinator.serving.failures import LastingError, RunError
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.config import NUMBERED, RunConfig
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.fitting.speeds import TIMEOUT_SECONDS, device_speed
from tplaunch.launcher.fitting.steps import time_steps
from tplaunch.launcher.hosts.addresses import Address, bracketed
from tplaunch.launcher.hosts.bringing import bring_model
from tplaunch.launcher.hosts.copies import ADVICE
from tplaunch.launcher.hosts.echoes import LinkMeter
from tplaunch.launcher.hosts.fetching.serving import served_model
from tplaunch.launcher.hosts.head import Head
from tplaunch.launcher.hosts.inviting import say_how_to_join
from tplaunch.launcher.hosts.links import interface_of
from tplaunch.launcher.hosts.messages import WantedModel
from tplaunch.launcher.hosts.remote_ranks import RanksElsewhere, RemoteRanks
from tplaunch.launcher.hosts.way_in import own_address, way_in
from tplaunch.launcher.lines import say
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.links import Link
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

MOST_SILENCE_SECONDS = 5.0  # from a host's last sign of life to the error that names it
MEGABIT_BYTES = 1e6 / 8
STEPS_SECONDS = 900.0  # for another host to time steps
NOTICING_PART = 0.8  # of that time, after which silence counts; the rest is for noticing and telling it


class Hosts:
    """The hosts of a run on this machine alone."""

    def __init__(self, choices: Sequence[DeviceChoice]) -> None:
        self.choices = list(choices)  # one device per rank, of all hosts, those of this one first

    def under(self, config: RunConfig) -> Hosts:
        """Returns the hosts of a run with other options, on the same hosts or on this one alone."""
        return Hosts(_selected(config))

    def present(self, choices: Sequence[DeviceChoice], check: Callable[[], None]) -> list[DeviceChoice]:
        """Returns these devices, those of hosts that were lost replaced by what took their places.

        Waits until all hosts are there. check: is called often, and may raise what ends the wait.
        """
        return list(choices)

    def measure(self, config: RunConfig, choice: DeviceChoice) -> float:
        """Returns the weights per second of one rank alone on a device. Raises RunError."""
        return device_speed(config, choice)

    def time_steps(
        self, config: JobConfig, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
    ) -> Sequence[Sequence[StepSeconds]]:
        """Returns what steps of ranks on devices of one host take, as [ranks][points]. Raises RunError."""
        return time_steps(config, choices, jobs)

    def links(self) -> dict[int, Link]:
        """Measures the links between this host and each other one, by its number. Raises RunError."""
        return {}

    def bring(
        self,
        choices: Sequence[DeviceChoice],
        plan: Sequence[RankShare],
        model: Model,
        check: Callable[[], None],
    ) -> None:
        """Has the hosts that lack the model fetch what their ranks read, and waits for them."""

    def ranks(self, choices: Sequence[DeviceChoice]) -> RemoteRanks:
        """Returns the ranks that a run on these devices has on other hosts."""
        return RemoteRanks()


class JoinedHosts(Hosts):
    """The hosts of a run that others have joined."""

    def __init__(
        self,
        config: RunConfig,
        head: Head,
        listen: Address,
        secret: bytes | None,
        own: Sequence[DeviceChoice],
    ) -> None:
        self._config, self._head, self._listen, self._secret = config, head, listen, secret
        self._await(lambda: None)
        members = self._members.values()
        super().__init__(self._all_choices(own))
        self._address = own_address(listen, list(members))
        interface = interface_of(self._address)
        warning = interface.warning()
        say(f"other hosts reach this one by {interface.text}{f'; {warning}' if warning else ''}")

    def _all_choices(self, own: Sequence[DeviceChoice]) -> list[DeviceChoice]:
        return [*own, *(choice for member in self._members.values() for choice in member.choices)]

    def under(self, config: RunConfig) -> Hosts:
        if config.hosts == 1:
            return super().under(config)
        same = copy(self)
        same._config, same.choices = config, self._all_choices(_own_devices(config))
        return same

    def _await(self, check: Callable[[], None]) -> None:
        members = self._head.await_hosts(self._config.load_timeout_seconds, check, say)
        self._members = {member.host: member for member in members}

    def present(self, choices: Sequence[DeviceChoice], check: Callable[[], None]) -> list[DeviceChoice]:
        hosts = [choice.host for choice in choices]
        if not self._config.restart_workers:  # with it another host may take a place
            self._check_present(hosts)
        self._head.need({host: hosts.count(host) for host in hosts if host != HEAD})
        self._await(check)
        found = list(choices)
        for host in {*hosts} - {HEAD}:
            places = [place for place, other in enumerate(hosts) if other == host]
            member = self._members[host]
            if len(member.choices) < len(places):
                raise RunError(f"{member.title} has too few devices: the run needs {len(places)} there")
            same = _same_or_next(member.choices, [choices[place] for place in places])
            for place, choice in zip(places, same, strict=True):
                found[place] = choice
        self._check_copies(hosts)
        return found

    def _check_copies(self, hosts: Sequence[int]) -> None:
        """hosts: of each rank. Raises LastingError where a host's copy of the model is another one by now."""
        members = [self._members[host] for host in sorted({*hosts} - {HEAD})]
        for member, seen in self._head.ask_copies(members):
            raise LastingError(
                f"the copy of the model on {member.title} has changed: {seen.change}; {ADVICE}"
            )

    def _check_present(self, hosts: Sequence[int]) -> None:
        """hosts: of each rank. Raises RunError where one was lost since it joined."""
        for rank, host in enumerate(hosts):
            if host != HEAD and (lost := self._members[host].lost):
                title = self._members[host].title
                raise RunError(f"{title}, before its ranks were started: rank {rank} is lost: it {lost}")

    def measure(self, config: RunConfig, choice: DeviceChoice) -> float:
        if choice.host == HEAD:
            return super().measure(config, choice)
        place = self._members[choice.host].choices.index(choice)
        return self._head.ask_speed(choice.host, place, config.rank_options, TIMEOUT_SECONDS)

    def time_steps(
        self, config: JobConfig, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
    ) -> Sequence[Sequence[StepSeconds]]:
        host = choices[0].host
        if host == HEAD:
            return super().time_steps(config, choices, jobs)
        known = self._members[host].choices
        return self._head.ask_steps(host, [known.index(choice) for choice in choices], jobs, STEPS_SECONDS)

    def links(self) -> dict[int, Link]:
        with LinkMeter(self._listen.host, self._secret) as meter:
            nowhere, own_speed = meter.nowhere(), interface_of(self._address).speed
            found = {}
            for host, member in self._members.items():
                echo = meter.measure(functools.partial(self._head.ask_echo, host, meter.port), member.title)
                speed = min(own_speed, member.join.interface.speed)
                found[host] = echo.link(nowhere, speed * MEGABIT_BYTES)
            return found

    def bring(
        self,
        choices: Sequence[DeviceChoice],
        plan: Sequence[RankShare],
        model: Model,
        check: Callable[[], None],
    ) -> None:
        if model.origin.parts:
            bring_model(self._head, choices, plan, model, self._config.load_timeout_seconds, check)

    def ranks(self, choices: Sequence[DeviceChoice]) -> RemoteRanks:
        if all(choice.host == HEAD for choice in choices):
            return RemoteRanks()
        devices = {host: member.choices for host, member in self._members.items()}
        return RanksElsewhere(self._head, choices, devices, bracketed(self._listen.host), self._address)


def _same_or_next(found: Sequence[DeviceChoice], wanted: Sequence[DeviceChoice]) -> list[DeviceChoice]:
    """The devices of a host that were the same before, and for others the next that none of these is."""
    left = list(found)
    same: list[DeviceChoice | None] = []
    for choice in wanted:
        identity = (choice.index, choice.uuid, choice.name)
        one = next((one for one in left if (one.index, one.uuid, one.name) == identity), None)
        same.append(one)
        if one is not None:
            left.remove(one)
    return [left.pop(0) if one is None else one for one in same]


@contextmanager
def open_hosts(config: RunConfig, model: Model) -> Iterator[Hosts]:
    """Gives all hosts of a run, once they are there; at the end the others are told that it is over.

    Raises UsageError for addresses, keys and devices that can't be, RunError where hosts don't come in time.
    """
    if config.hosts == 1:
        yield Hosts(_selected(config))
        return
    own = _own_devices(config)
    listen, secret = way_in(config)
    with _served(config, model, listen, secret) as wanted:
        by_number = config.others_come == NUMBERED
        head, failure = Head(listen, secret, config.hosts, wanted, by_number=by_number), ""
        try:
            say_how_to_join(config, listen, secret)
            yield JoinedHosts(config, head, listen, secret, own)
        except Exception as error:
            failure = str(error) or repr(error)
            raise
        finally:
            head.close(failure)


def _own_devices(config: RunConfig) -> list[DeviceChoice]:
    """Returns this host's devices, which in a run on several hosts have its name."""
    name = socket.gethostname()
    return [replace(choice, host_name=name) for choice in _selected(config)]


def _selected(config: RunConfig) -> list[DeviceChoice]:
    return select_devices(config.devices, pins=not config.no_pin)


def silence_seconds(config: RunConfig) -> float:
    """Returns how long a host or a worker may be silent before it counts as dead."""
    return NOTICING_PART * min(MOST_SILENCE_SECONDS, config.timeout_seconds)


@contextmanager
def _served(config: RunConfig, model: Model, listen: Address, secret: bytes | None) -> Iterator[WantedModel]:
    """Serves the model's bytes to the other hosts; gives what each of them must have."""
    name, silence = config.model.name[:200], silence_seconds(config)
    if not model.origin.parts:
        yield WantedModel(name, model.origin.model_hash, (), silence)
        return
    with served_model(model.origin.parts, listen.host, secret) as (facts, port):
        yield WantedModel(name, facts.model_hash, facts.parts, silence, port)
