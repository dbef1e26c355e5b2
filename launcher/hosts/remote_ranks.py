"""The ranks of one run that are on other hosts: where they dial in, how they start, who is to blame."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tplaunch.coordinator.curve import SECRET_BYTES
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import RemoteDoor, Watcher
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.hosts.head import Head
from tplaunch.launcher.hosts.members import Member
from tplaunch.launcher.supervisor import GRACE_SECONDS

STOP_SECONDS = 3 * GRACE_SECONDS  # for another host to end its workers, of which some must be killed


class RemoteRanks:
    """The ranks on other hosts of a run that has none."""

    door: RemoteDoor | None = None  # where they dial in
    address = ""  # of this host, by which its own ranks are reached; empty where all ranks are here
    silence_seconds: float | None = None  # after which a rank counts as dead; None where all ranks are here

    @contextmanager
    def started(self, port: int) -> Iterator[None]:
        """They run within this context. port: of the door."""
        yield

    def watched_with(self, own: Watcher) -> Watcher:
        """Returns what watches these ranks and this host's own."""
        return own

    def log(self, rank: int) -> str | None:
        """Says where a rank's log is; None for a rank of this host."""
        return None

    def copy_change(self, *, only_overwriting: bool = False) -> str | None:
        """Returns a sentence on the first copy of the model that is not as its host found it; None for none.

        only_overwriting: changes count only of the bytes that ranks have in use.
        """
        return None


class RanksElsewhere(RemoteRanks):
    """Ranks on hosts that have joined."""

    def __init__(
        self,
        head: Head,
        choices: Sequence[DeviceChoice],
        devices: Mapping[int, Sequence[DeviceChoice]],
        listen: str,
        address: str,
    ) -> None:
        """choices: the device of each rank of the run. devices: all that each host has.

        listen: what the door is bound to. address: of this host.
        """
        self._head, self._choices = head, choices
        self.address, self.silence_seconds = address, head.silence_seconds
        self._hosts: dict[int, list[int]] = {}  # the ranks of each
        for rank, choice in enumerate(choices):
            if choice.host != HEAD:
                self._hosts.setdefault(choice.host, []).append(rank)
        self._places = {
            host: [devices[host].index(choices[rank]) for rank in ranks]
            for host, ranks in self._hosts.items()
        }
        self._members: dict[int, Member] = {}  # by host, once they were started
        far = tuple(rank for ranks in self._hosts.values() for rank in ranks)
        self.door = RemoteDoor(listen, far, secrets.token_bytes(SECRET_BYTES))

    @contextmanager
    def started(self, port: int) -> Iterator[None]:
        assert self.door is not None
        ranks = {host: (ranks, self._places[host]) for host, ranks in self._hosts.items()}
        self._members = self._head.start(ranks, port, self.door.secret)
        at_once, keeps_logs = True, False
        try:
            yield
            at_once = False
        except WorkerError:
            keeps_logs = True
            raise
        finally:
            self._head.stop(
                self._members.values(), at_once=at_once, keeps_logs=keeps_logs, seconds=STOP_SECONDS
            )

    def watched_with(self, own: Watcher) -> Watcher:
        return _Both(own, self, self._head.alarm)

    def watch(self, excused: Collection[int]) -> None:
        """Raises WorkerError where a rank has ended, or its host is lost, other than the excused ranks."""
        for member, ended in self._head.faults(self._members.values()):
            for rank in self._hosts[member.host]:
                if rank in excused:
                    continue
                if member.lost:
                    raise WorkerError(rank, f"rank {rank} is lost: {member.title} {member.lost}")
                if rank in ended:
                    raise WorkerError(rank, ended[rank])

    def log(self, rank: int) -> str | None:
        choice = self._choices[rank]
        if choice.host == HEAD:
            return None
        return f"{choice.host_name}:{self._members[choice.host].logs}/rank-{rank}.log"

    def copy_change(self, *, only_overwriting: bool = False) -> str | None:
        for member, copy in self._head.ask_copies(self._members.values()):
            if copy.is_overwriting or not only_overwriting:
                return f"on {member.title} {copy.change}"
        return None


class _Both:
    """Watches the workers of this host and those of others."""

    def __init__(self, own: Watcher, others: RanksElsewhere, alarm: int) -> None:
        self._own, self._others, self._alarm = own, others, alarm

    def watch(self, excused: Collection[int]) -> None:
        self._own.watch(excused)
        self._others.watch(excused)

    def descriptors(self) -> Sequence[int]:
        return [*self._own.descriptors(), self._alarm]
