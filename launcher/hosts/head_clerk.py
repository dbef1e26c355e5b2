"""Deals with what joining hosts send to the head, in the thread of a Post, and notices who is gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.copies import CopySeen, Fetched, Fetching
from tplaunch.launcher.hosts.descriptions import cut
from tplaunch.launcher.hosts.head_socket import open_post
from tplaunch.launcher.hosts.measurements import DeviceSpeed, StepsTimed
from tplaunch.launcher.hosts.members import MAX_APPLICANTS, Member, Members
from tplaunch.launcher.hosts.messages import (
    LAST_WORDS,
    Beat,
    End,
    FoundModel,
    FromHead,
    Join,
    Leave,
    RankEnded,
    RanksStarted,
    RanksStopped,
    Refused,
    WantedModel,
    Welcome,
    decode_from_joiner,
    encode,
    number_of,
)
from tplaunch.launcher.hosts.post import TICKS_PER_SILENCE, Clerk
from tplaunch.launcher.lines import numbered

MOST_WAITING_TICKS = TICKS_PER_SILENCE + 2  # until an applicant without a place is refused
MOST_MISSED = 1  # beats that could not be sent, for it may dial again
TICKS_PER_BEAT = TICKS_PER_SILENCE // 4
JOIN_IS_LOST = Beat(sent=1, taken=0, lacks=False)  # from somebody who has not been heard before


class HeadClerk(Clerk):
    """Keeps the members of a run; others look at them under its condition."""

    def __init__(
        self,
        listen: Address,
        secret: bytes | None,
        num_hosts: int,
        wanted: WantedModel,
        *,
        by_number: bool = False,
    ) -> None:
        """Listens from now on. secret: of the key file; None for a socket that takes in anybody.

        by_number: people know the hosts by their node ranks. Raises UsageError for an address that can't be
        listened on.
        """
        self._wanted, self._num_hosts, self._by_number = wanted, num_hosts, by_number
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
                self._take_from_stranger(identity, message, content)
                return
            member.num_silent_ticks = member.num_missed = 0
            if isinstance(message, Beat):
                member.order.hear(message)
            if not member.order.takes(content):
                return
            if isinstance(message, Leave):
                self._lose(member, f"has left: {message.reason}")
            elif isinstance(message, FoundModel):
                self._admit(member, message)
            elif isinstance(message, DeviceSpeed):
                member.speeds[message.device] = message
                self._changed.notify_all()
            elif isinstance(message, StepsTimed) and message.number == member.wish:
                member.timed[message.number] = message
                self._changed.notify_all()
            elif isinstance(message, CopySeen) and message.number == member.num_looks:
                member.copy = message
                self._changed.notify_all()
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
                    continue
                for frames in member.order.again():
                    self._post.send([member.identity, *frames])
                if self._ticks % TICKS_PER_BEAT == 0:
                    self._post.send([member.identity, *member.order.beat()])

    def _take_from_stranger(self, identity: bytes, message: object, content: Sequence[bytes]) -> None:
        if message == JOIN_IS_LOST:
            self._post.send([identity, *encode(Beat(sent=0, taken=0, lacks=True))])
            return
        if not isinstance(message, Join):  # it has been given up, and does not know that yet
            self._post.send(
                [identity, *encode(End("the head has given this host up: it was not heard for too long"))]
            )
            return
        applicant = Member(identity, message)
        applicant.order.takes(content)
        reason = self._members.fault(message)
        if reason or self._members.is_crowded:
            self._refuse(applicant, reason or "too many hosts ask to join at once", passes=not reason)
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
            self._refuse(applicant, self._members.obstacle(applicant.join), passes=True)

    def miss(self, frames: Sequence[Frame]) -> None:
        identity, *content = frames
        with self._changed:
            member = self._members.find(bytes(identity))
            if member is not None and not number_of(content):  # others are sent again
                member.num_missed += 1
                if member.num_missed > MOST_MISSED:
                    self._lose(member, "closed its connection: its process has ended, or its network has")

    def _admit(self, member: Member, found: FoundModel) -> None:
        if member.host:
            return
        reason = found.fault or self._members.admit(member)
        self._members.applicants.pop(member.identity, None)
        if reason:
            self._refuse(member, reason, passes=not found.fault)
            return
        member.fetches = found.fetches
        self._send(member, Welcome(member.host, self._num_hosts))
        missing = self._missing()
        self._remark(member.welcome + (f"; {missing}" if missing else ""))

    def _missing(self) -> str:
        """Says which hosts are not there; nothing where all are."""
        missing = self._members.missing
        if not missing or not self._by_number:
            return f"{len(missing)} more to come" if missing else ""
        return f"{numbered('node rank', missing)} {'are' if len(missing) > 1 else 'is'} missing"

    def _refuse_stranger(self, identity: bytes, member: Member | None, reason: str) -> None:
        if member is None:
            self._post.send([identity, *encode(Refused(cut(f"the head does not understand it: {reason}")))])
        else:
            self._send(member, Refused(cut(f"the head does not understand it: {reason}")))
            self._lose(member, f"was put out: {reason}")

    def _refuse(self, member: Member, reason: str, *, passes: bool) -> None:
        self._send(member, Refused(cut(reason), passes))
        self._remark(f"{member.join.name} asked to join and was refused: {reason}")

    def _lose(self, member: Member, why: str) -> None:
        self._members.applicants.pop(member.identity, None)
        member.lost = why
        if member.host:
            self._remark(f"{member.title} {why}; another may take its place")
            self._raise_alarm()
        else:
            self._remark(f"{member.join.name}, which was joining, {why}")

    def _remark(self, text: str) -> None:
        """Keeps what a person should know for the thread that waits for hosts; a part where none does."""
        if len(self._remarks) < MAX_APPLICANTS:
            self._remarks.append(text)
        self._changed.notify_all()

    def _raise_alarm(self) -> None:
        os.eventfd_write(self.alarm, 1)
        self._changed.notify_all()

    def _send(self, member: Member, message: FromHead) -> None:
        frames = encode(message)
        numbered = frames if isinstance(message, LAST_WORDS) else member.order.numbered(frames)
        self._post.send([member.identity, *numbered])
