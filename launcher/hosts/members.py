"""The hosts that have joined a run, as the head knows them: who they are, and what has become of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tplaunch
from tplaunch.coordinator import messages as workers
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.hosts.copies import CopySeen, Fetched
from tplaunch.launcher.hosts.descriptions import HostDevice
from tplaunch.launcher.hosts.measurements import DeviceSpeed, StepsTimed
from tplaunch.launcher.hosts.messages import PROTOCOL_VERSION, Join
from tplaunch.launcher.hosts.order import Order

MAX_APPLICANTS = 64  # that are being admitted at once
NOT_SEEN = CopySeen(0)


@dataclass
class Member:
    """A host that asks to take part, or does. Guarded by the head's lock."""

    identity: bytes  # of its socket
    join: Join
    host: int = 0  # its number, once it takes part
    num_silent_ticks: int = 0
    num_ticks: int = 0  # since it asked
    is_considered: bool = False  # it was asked for the model
    num_missed: int = 0  # beats in a row that could not be sent to it
    lost: str = ""  # why it takes part no more, as a sentence without a subject
    speeds: dict[int, DeviceSpeed] = field(default_factory=dict)  # of its devices that were asked for
    wish: int = 0  # for steps to be timed, the last one's number
    timed: dict[int, StepsTimed] = field(default_factory=dict)  # its answer, by that number
    num_looks: int = 0  # that it was asked for at its copy of the model
    copy: CopySeen = NOT_SEEN  # its last answer to that
    ended: dict[int, str] = field(default_factory=dict)  # how ranks of the present run ended
    logs: str = ""  # its folder
    has_stopped: bool = True  # no worker of the present run is left there
    fetches: bool = False  # it lacks the model, and fetches its part
    fetching: tuple[int, int] = (0, 0)  # bytes that have come of those that shall
    fetched: Fetched | None = None  # how that ended
    order: Order = field(default_factory=Order)  # of messages from and to it

    @property
    def title(self) -> str:
        """The host for people."""
        return f"host {self.host} ({self.join.name})"

    @property
    def welcome(self) -> str:
        """Says to a person that it has joined."""
        join, count = self.join, len(self.join.devices)
        devices = f"{count} device{'s' * (count > 1)} ({', '.join(device.name for device in join.devices)})"
        return (
            f"{self.title} has joined by {join.interface.text}, with {devices},"
            f" {join.total_memory / 2**30:.1f} GiB of memory and {join.num_cores} cores"
        )

    @property
    def choices(self) -> list[DeviceChoice]:
        """Its devices, a rank each."""
        return [choice_of(device, self.host, self.join) for device in self.join.devices]


class Members:
    """The places of a run's other hosts, who has them, and who asks for one. Guarded by the head's lock."""

    def __init__(self, num_hosts: int) -> None:
        self._num_hosts = num_hosts
        self.applicants: dict[bytes, Member] = {}  # by identity
        self._by_host: dict[int, Member] = {}  # a lost one until another takes its place
        self.needed: Mapping[int, int] = {}  # devices, by host, once that is known

    @property
    def missing(self) -> list[int]:
        """The numbers of the hosts that are not there."""
        taken = {member.host for member in self.present}
        return [host for host in range(1, self._num_hosts) if host not in taken]

    @property
    def present(self) -> list[Member]:
        """Members that take part, in the order of their hosts."""
        return [member for _, member in sorted(self._by_host.items()) if not member.lost]

    @property
    def everybody(self) -> list[Member]:
        return [*self.present, *self.applicants.values()]

    def __getitem__(self, host: int) -> Member:
        """The host's member, which may be lost."""
        return self._by_host[host]

    def find(self, identity: bytes) -> Member | None:
        return next((member for member in self.everybody if member.identity == identity), None)

    def fault(self, join: Join) -> str:
        """Says why a host can never take part, whatever places there are; nothing where it can."""
        if (join.version, join.worker_version) != (PROTOCOL_VERSION, workers.PROTOCOL_VERSION):
            return (
                f"it runs tplaunch {join.release} with another protocol than the head's"
                f" {tplaunch.__version__}; install the same release on every host"
            )
        return ""

    @property
    def is_crowded(self) -> bool:
        """Tells whether too many hosts ask to join at once."""
        return len(self.applicants) >= MAX_APPLICANTS

    def obstacle(self, join: Join) -> str:
        """Says why there is no place for a host now; nothing where there is one."""
        return "" if self._place_for(join) is not None else self._no_place(join)

    def admit(self, member: Member) -> str:
        """Gives an applicant a place; returns why there is none, or nothing."""
        self.applicants.pop(member.identity)
        host = self._place_for(member.join)
        if host is None:
            return self._no_place(member.join)
        member.host = host
        self._by_host[host] = member
        return ""

    def _place_for(self, join: Join) -> int | None:
        for host in self.missing:
            if len(join.devices) >= self.needed.get(host, 1) and join.wanted_host in (0, host):
                return host
        return None

    def _no_place(self, join: Join) -> str:
        if not self.missing:
            return f"the run has all of its {self._num_hosts} hosts"
        if join.wanted_host:
            return f"there is no place for a host {join.wanted_host}: it is taken, or there are fewer hosts"
        return f"it has {len(join.devices)} devices, where the run needs more in this place"


def choice_of(device: HostDevice, host: int, join: Join) -> DeviceChoice:
    """Returns a device of a joined host as the plan takes it."""
    return DeviceChoice(
        index=device.index,
        name=device.name,
        uuid=device.uuid,
        on_cpu=device.on_cpu,
        memory_bytes=device.memory_bytes,
        available_bytes=device.available_bytes,
        max_allocation=device.max_allocation,
        integrated=device.integrated,
        lacks=frozenset(device.lacks),
        imports_memory=device.imports_memory,
        kind=device.kind,
        driver=device.driver,
        host=host,
        host_name=join.name,
        host_memory=(join.total_memory, join.available_memory, join.memory_limit),
        caps=(device.max_bytes, join.max_memory),
    )


def device_of(choice: DeviceChoice) -> HostDevice:
    """Returns a device of this machine as the head is told of it."""
    return HostDevice(
        index=choice.index,
        name=choice.name,
        uuid=choice.uuid,
        on_cpu=choice.on_cpu,
        memory_bytes=choice.memory_bytes,
        available_bytes=choice.available_bytes,
        max_allocation=choice.max_allocation,
        integrated=choice.integrated,
        lacks=tuple(sorted(choice.lacks)),
        imports_memory=choice.imports_memory,
        kind=choice.kind,
        driver=choice.driver,
        max_bytes=choice.caps[0],
    )
