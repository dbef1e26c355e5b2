"""The hosts and tests that a prediction is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.predicting.described import DescribedDevice
from tplaunch.launcher.predicting.links import Link

HostDevice = DeviceChoice | DescribedDevice


@dataclass(frozen=True)
class Wanted:
    """The hosts and tests that a prediction is for."""

    hosts: tuple[tuple[HostDevice, ...], ...]  # the devices of each
    link: Link | None  # between any two hosts, but those of `links`
    pipeline: int | None = None  # stages; None for all numbers of them
    wire: str = "f32"
    prompt_tokens: int = 512
    links: Mapping[tuple[int, int], Link] = field(default_factory=dict)  # the lower number first
    names: tuple[str, ...] = ()  # of the hosts; empty where they are not there
    anew: bool = False  # measure what is known from before, too

    def __post_init__(self) -> None:
        if len(self.hosts) > 1 and self.link is None:
            raise UsageError(
                f"--hosts {len(self.hosts)}: say how the hosts are linked with --link, such as 1000us,1Gbit"
            )
        num_ranks = sum(map(len, self.hosts))
        if num_ranks > MAX_RANKS:
            raise UsageError(
                f"{len(self.hosts)} hosts have {num_ranks} ranks; at most {MAX_RANKS} are possible"
            )
        if self.pipeline is not None and (self.pipeline < 1 or num_ranks % self.pipeline):
            raise UsageError(
                f"--pipeline {self.pipeline}: each stage has as many ranks, but there are {num_ranks} ranks"
            )

    @property
    def by_rank(self) -> tuple[int, ...]:
        """The host of each rank."""
        return tuple(host for host, devices in enumerate(self.hosts) for _ in devices)

    @property
    def devices(self) -> tuple[HostDevice, ...]:
        """The device of each rank."""
        return tuple(device for devices in self.hosts for device in devices)
