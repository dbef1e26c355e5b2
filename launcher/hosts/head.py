"""The head's end of all joined hosts: admits them, beats, notices who is gone, and starts ranks on them.

Everything that comes is dealt with in the thread of a Post; other threads ask and wait by a condition.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.head_socket import open_post
from tplaunch.launcher.hosts.members import MAX_APPLICANTS, Member, Members
from tplaunch.launcher.hosts.messages import (
    Beat,
    End,
    Fetched,
    Fetching,
    FetchPart,
    FoundModel,
    FromHead,
    Join,
    Leave,
    RankEnded,
    RanksStarted,
    RanksStopped,
    Refused,
    StartRanks,
    StopRanks,
    WantedModel,
    Welcome,
    cut,
    decode_from_joiner,
    encode,
)
from tplaunch.launcher.hosts.post import TICKS_PER_SILENCE, Clerk

MOST_WAITING_TICKS = TICKS_PER_SILENCE + 2  # until an applicant without a place is refused
MOST_MISSED = 1  # beats that could not be sent, for it may dial again
TICKS_PER_BEAT = TICKS_PER_SILENCE // 4
LOOK_SECONDS = 0.25  # between two looks at what may end a wait


class Head(Clerk):
    """Knows all hosts of a run but its own. Hosts are counted from 1, which is the first that joined."""

    def __init__(self, listen: Address, secret: bytes | None, num_hosts: int, wanted: WantedModel) -> None:
        """Listens from now on. secret: of the key file; None for a socket that takes in anybody.

        Raises UsageError for an address that can't be listened on.
        """
        self._wanted, self._num_hosts = wanted, num_hosts
        self._changed = threading.Condition()
        self._members = Members(num_hosts)
        self._remarks: list[str] = []  # to be said by the thread that waits
        self._run = 0
        self._ticks = 0
        self.alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable once something is wrong
        self._post = open_post(listen, secret, wanted.silence_seconds / TICKS_PER_SILENCE)
        self._post.start(self)

    @property
    def silence_seconds(self) -> float:
        return self._wanted.silence_seconds

    # Asked by the launcher.

    def await_hosts(
        self, seconds: float, check: Callable[[], None], say: Callable[[str], None]
    ) -> list[Member]:
        """Returns the members in the order of their hosts, once all are there. Raises RunError.

        check: is called often, and may raise what ends the wait. say: tells a person what happens.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                while self._remarks:
                    say(self._remarks.pop(0))
                present = self._members.present
                if not self._members.num_missing:
                    return present
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{len(present) + 1} of {self._num_hosts} hosts were there after {seconds:g} s"
                        f" ({_named(present)}); --load-timeout allows more"
                    )
                self._changed.wait(LOOK_SECONDS)
            check()
            self._check_post()

    def need(self, num_devices: Mapping[int, int]) -> None:
        """Has a host that takes the place of another one need so many devices."""
        with self._changed:
            self._members.needed = num_devices

    def start(
        self, ranks: Mapping[int, tuple[Sequence[int], Sequence[int]]], port: int, secret: bytes
    ) -> dict[int, Member]:
        """Has hosts start workers; returns their members, who stay those of the run when they are lost.

        ranks: by host, with the places of their devices in the host's list.
        """
        with self._changed:
            self._run += 1
            with suppress(BlockingIOError):
                os.eventfd_read(self.alarm)
            members = {host: self._members[host] for host in ranks}
            for host, (numbers, devices) in ranks.items():
                member = members[host]
                member.ended, member.logs, member.has_stopped = {}, "", False
                self._send(member, StartRanks(self._run, tuple(numbers), tuple(devices), port, secret))
            return members

    def stop(self, members: Collection[Member], *, has_failed: bool, seconds: float) -> None:
        """Has the workers of other hosts ended, and waits so long for that.

        After a failure they get no time to end by themselves, and their logs stay.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            busy = [member for member in members if not (member.has_stopped or member.lost)]
            for member in busy:
                self._send(member, StopRanks(self._run, has_failed, has_failed))
            while any(not (member.has_stopped or member.lost) for member in busy):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return

    def ask_to_fetch(self, wanted: Mapping[int, Sequence[FetchPart]]) -> list[Member]:
        """Has those of the hosts that lack the model fetch their part; returns them."""
        with self._changed:
            found = [self._members[host] for host in wanted if self._members[host].fetches]
            for member in found:
                member.fetching, member.fetched = (0, 0), None
                for part in wanted[member.host]:
                    self._send(member, part)
            return found

    def wait(self) -> None:
        """Waits for a change, but not long. Raises RunError where nobody is heard."""
        with self._changed:
            self._changed.wait(LOOK_SECONDS)
        self._check_post()

    def faults(self, members: Collection[Member]) -> list[tuple[Member, dict[int, str]]]:
        """Returns those with which something is wrong, and how which of their ranks ended.

        Raises RunError where nobody is heard.
        """
        self._check_post()
        with self._changed:
            return [(member, dict(member.ended)) for member in members if member.lost or member.ended]

    def close(self, failure: str = "") -> None:
        """Tells all hosts that the run has ended."""
        with self._changed:
            for member in self._members.everybody:
                self._send(member, End(cut(failure)))
        self._post.close()
        os.close(self.alarm)

    def _check_post(self) -> None:
        if self._post.failure is not None:
            raise RunError(f"the connection to other hosts has failed: {self._post.failure}")

    # In the post's thread.

    def take(self, frames: Sequence[bytes]) -> None:
        identity, *content = frames
        with self._changed:
            member = self._members.find(identity)
            try:
                message = decode_from_joiner(content)
            except WireError as error:
                self._refuse_stranger(identity, member, f"it sent {error}")
                return
            if member is None:
                self._take_from_stranger(identity, message)
                return
            member.num_silent_ticks = member.num_missed = 0
            if isinstance(message, Leave):
                self._lose(member, f"has left: {message.reason}")
            elif isinstance(message, FoundModel):
                self._admit(member, message)
            elif isinstance(message, Fetching):
                member.fetching = message.done, message.total
            elif isinstance(message, Fetched):
                member.fetched = message
                self._changed.notify_all()
            elif isinstance(message, RanksStarted) and message.run == self._run:
                member.logs = message.logs
            elif isinstance(message, RankEnded) and message.run == self._run:
                member.ended.setdefault(message.rank, message.how)
                self._raise_alarm()
            elif isinstance(message, RanksStopped) and message.run == self._run:
                member.has_stopped = True
                self._changed.notify_all()

    def tick(self) -> None:
        with self._changed:
            self._ticks += 1
            for applicant in list(self._members.applicants.values()):
                applicant.num_ticks += 1
                if not applicant.is_considered:
                    self._consider(applicant)
            for member in self._members.everybody:
                member.num_silent_ticks += member.is_considered
                if member.num_silent_ticks > TICKS_PER_SILENCE:
                    silence = f"said nothing for {self.silence_seconds:g} s"
                    self._send(member, End(f"the head has given this host up: it {silence}"))
                    self._lose(member, f"{silence}: it is off, frozen, or cut off from the network")
                elif self._ticks % TICKS_PER_BEAT == 0:
                    self._send(member, Beat())

    def _take_from_stranger(self, identity: bytes, message: object) -> None:
        if not isinstance(message, Join):  # it has been given up, and does not know that yet
            self._post.send(
                [identity, *encode(End("the head has given this host up: it was not heard for too long"))]
            )
            return
        applicant = Member(identity, message)
        reason = self._members.fault(message)
        if reason:
            self._refuse(applicant, reason)
            return
        self._members.applicants[identity] = applicant
        self._consider(applicant)

    def _consider(self, applicant: Member) -> None:
        """Has an applicant look for the model once there is a place for it.

        A host may be gone of which that is not known yet: so long, an applicant waits for its place.
        """
        if not self._members.obstacle(applicant.join):
            applicant.is_considered = True
            self._send(applicant, self._wanted)
        elif applicant.num_ticks > MOST_WAITING_TICKS:
            del self._members.applicants[applicant.identity]
            self._refuse(applicant, self._members.obstacle(applicant.join))

    def miss(self, identity: bytes) -> None:
        with self._changed:
            member = self._members.find(identity)
            if member is not None:
                member.num_missed += 1
                if member.num_missed > MOST_MISSED:
                    self._lose(member, "closed its connection: its process has ended, or its network has")

    def _admit(self, member: Member, found: FoundModel) -> None:
        if member.host:
            return
        reason = found.fault or self._members.admit(member)
        self._members.applicants.pop(member.identity, None)
        if reason:
            self._refuse(member, reason)
            return
        member.fetches = found.fetches
        self._send(member, Welcome(member.host, self._num_hosts))
        num_missing = self._members.num_missing
        self._remark(member.welcome + (f"; {num_missing} more to come" if num_missing else ""))

    def _refuse_stranger(self, identity: bytes, member: Member | None, reason: str) -> None:
        if member is None:
            self._post.send([identity, *encode(Refused(cut(f"the head does not understand it: {reason}")))])
        else:
            self._send(member, Refused(cut(f"the head does not understand it: {reason}")))
            self._lose(member, f"was put out: {reason}")

    def _refuse(self, member: Member, reason: str) -> None:
        self._send(member, Refused(cut(reason)))
        self._remark(f"{member.join.name} asked to join and was refused: {reason}")

    def _lose(self, member: Member, why: str) -> None:
        self._members.applicants.pop(member.identity, None)
        member.lost = why
        if member.host:
            self._remark(f"{member.title} {why}; another may take its place")
            self._raise_alarm()

    def _remark(self, text: str) -> None:
        """Keeps what a person should know for the thread that waits for hosts; a part where none does."""
        if len(self._remarks) < MAX_APPLICANTS:
            self._remarks.append(text)
        self._changed.notify_all()

    def _raise_alarm(self) -> None:
        os.eventfd_write(self.alarm, 1)
        self._changed.notify_all()

    def _send(self, member: Member, message: FromHead) -> None:
        self._post.send([member.identity, *encode(message)])


def _named(members: Sequence[Member]) -> str:
    return ", ".join(["this one", *(member.title for member in members)])
