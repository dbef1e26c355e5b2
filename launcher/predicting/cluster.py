"""Hosts, their ranks, and what it costs these to exchange sums and activations. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.seconds import NOTHING, Seconds, longest

# Bytes of a number between hosts, of 4 that it has on them. q8: a scale of two bytes for each block of 64.
WIRE_BYTES = {"f32": 4.0, "bf16": 2.0, "q8": 1.0 + 2 / 64}
HEAD = 0


@dataclass(frozen=True)
class Cost:
    """The time of handling a message on a host, whatever the link: measured without one."""

    seconds: float
    seconds_per_byte: float = 0.0

    def of(self, num_bytes: float) -> Seconds:
        return Seconds(dispatch=self.seconds + self.seconds_per_byte * num_bytes)


@dataclass(frozen=True)
class Cluster:
    """The hosts of ranks, and the links between them.

    local: an all-reduce among so many ranks of one host. between: one among leaders of two hosts, and with
    more hosts again for each further one. links: of pairs of hosts, the lower number first; `link` is that of
    every other pair.
    """

    hosts: tuple[int, ...]  # by rank
    link: Link
    local: Mapping[int, Cost]
    between: Cost
    coordinator: float  # seconds of each step beside the ranks' own
    wire: str = "f32"
    links: Mapping[tuple[int, int], Link] = field(default_factory=dict)

    def message(self, one: int, other: int, num_bytes: float) -> Seconds:
        """Returns what a message of the wire takes from one host to another; nothing on one host."""
        if one == other:
            return NOTHING
        return self.links.get((min(one, other), max(one, other)), self.link).message(num_bytes)

    def answer(self, hosts: Sequence[int]) -> Seconds:
        """Returns what a message without much in it takes between the head and the farthest of some hosts."""
        return longest([self.message(HEAD, host, 0) for host in hosts])

    def hand_over(self, one: int, other: int, num_bytes: float) -> Seconds:
        """Returns what it takes to give a stage's activations, in float32, to the next, on any host."""
        return self.between.of(num_bytes) + self.message(one, other, num_bytes)

    def all_reduce(self, ranks: Sequence[int], num_bytes: float) -> Seconds:
        """Returns what it takes some ranks to add up so many bytes of float32.

        Inside a host first, then among the hosts: at once to all peers, or in a ring, which is quicker.
        """
        hosts = [self.hosts[rank] for rank in ranks]
        most = max(map(hosts.count, hosts))
        inside = self.local[most].of(num_bytes) if most > 1 else NOTHING
        among = sorted(set(hosts))
        if len(among) == 1:
            return inside
        return inside + min(self._at_once(among, num_bytes), self._ring(among, num_bytes), key=_total)

    def _at_once(self, hosts: Sequence[int], num_bytes: float) -> Seconds:
        """Every host sends all to each other one: its link has them one after the other."""
        sent, peers = self._wired(num_bytes), len(hosts) - 1
        way = longest([self.message(one, other, sent * peers) for one in hosts for other in hosts])
        return way + self.between.of(num_bytes) * peers

    def _ring(self, hosts: Sequence[int], num_bytes: float) -> Seconds:
        """Reduce-scatter and all-gather: twice as many turns as there are peers, of a host's part each."""
        sent, turns = self._wired(num_bytes) / len(hosts), 2 * (len(hosts) - 1)
        neighbours = zip(hosts, (*hosts[1:], hosts[0]), strict=True)
        way = longest([self.message(one, other, sent) for one, other in neighbours])
        return (way + self.between.of(num_bytes / len(hosts))) * turns

    def _wired(self, num_bytes: float) -> float:
        return num_bytes * WIRE_BYTES[self.wire] / 4


def _total(seconds: Seconds) -> float:
    return seconds.total
