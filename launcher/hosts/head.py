"""The head's end of all joined hosts, as the launcher asks it: who is there, start ranks, who is to blame."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.hosts.copies import AskCopy, CopySeen, FetchPart
from tplaunch.launcher.hosts.descriptions import cut
from tplaunch.launcher.hosts.head_clerk import HeadClerk
from tplaunch.launcher.hosts.measurements import AskEcho, AskSpeed, AskSteps, DeviceSpeed, StepsTimed
from tplaunch.launcher.hosts.members import Member
from tplaunch.launcher.hosts.messages import (
    MAX_FRAME_BYTES,
    End,
    StartRanks,
    StopRanks,
    encode,
)
from tplaunch.running_clock import RunningClock
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

Told = TypeVar("Told", DeviceSpeed, StepsTimed)

LOOK_SECONDS = 0.25  # between two looks at what may end a wait
COPY_SECONDS = 1.0  # for hosts to look at their files


class Head(HeadClerk):
    """Knows all hosts of a run but its own. Hosts are counted from 1, which is the first that joined."""

    def await_hosts(
        self, seconds: float, check: Callable[[], None], say: Callable[[str], None]
    ) -> list[Member]:
        """Returns the members in the order of their hosts, once all are there. Raises RunError.

        check: is called often, and may raise what ends the wait. say: tells a person what happens.
        """
        clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
        while True:
            with self._changed:
                while self._remarks:
                    say(self._remarks.pop(0))
                present = self._members.present
                if not self._members.missing:
                    return present
                if clock() > seconds:
                    missing = f", {self._missing()}" if self._by_number else ""
                    raise RunError(
                        f"{len(present) + 1} of {self._num_hosts} hosts were there after {seconds:g} s"
                        f" ({_named(present)}){missing}; --load-timeout allows more"
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

    def stop(self, members: Collection[Member], *, at_once: bool, keeps_logs: bool, seconds: float) -> None:
        """Has the workers of other hosts ended, and waits so long for that.

        at_once: they get no time to end by themselves. keeps_logs: theirs stay.
        """
        clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
        with self._changed:
            busy = [member for member in members if not (member.has_stopped or member.lost)]
            for member in busy:
                self._send(member, StopRanks(self._run, at_once, keeps_logs))
            while any(not (member.has_stopped or member.lost) for member in busy):
                if clock() > seconds:
                    return
                self._changed.wait(LOOK_SECONDS)

    def ask_to_fetch(self, wanted: Mapping[int, Sequence[FetchPart]]) -> list[Member]:
        """Has those of the hosts that lack the model fetch their part; returns them."""
        with self._changed:
            found = [self._members[host] for host in wanted if self._members[host].fetches]
            for member in found:
                member.fetching, member.fetched = (0, 0), None
                for part in wanted[member.host]:
                    self._send(member, part)
            return found

    def ask_speed(self, host: int, device: int, options: RankOptions, seconds: float) -> float:
        """Returns the weights per second of a host's device, by its place in the host's list.

        Raises RunError where the host can't tell, or does not within so many seconds.
        """
        with self._changed:
            member = self._members[host]
            if device not in member.speeds:
                self._send(member, AskSpeed(device, options))
            what = "tell how fast its device is"
            return self._answer(member, member.speeds, device, what, seconds).weights_per_second

    def ask_steps(
        self, host: int, devices: Sequence[int], jobs: Sequence[StepsJob], seconds: float
    ) -> Sequence[Sequence[StepSeconds]]:
        """Returns what steps of ranks on a host's devices take, as [ranks][points].

        devices: by their places in the host's list. Raises RunError as ask_speed() does.
        """
        with self._changed:
            member = self._members[host]
            member.wish += 1
            member.timed.clear()
            wish = AskSteps(member.wish, tuple(devices), tuple(jobs))
            if sum(memoryview(frame).nbytes for frame in encode(wish)) > MAX_FRAME_BYTES:
                raise RunError(f"{member.title} can't be asked to time steps of so many layers and ranks")
            self._send(member, wish)
            what = "time steps on its devices"
            found = self._answer(member, member.timed, wish.number, what, seconds)
            if [len(rank) for rank in found.taken] != [len(job.points) for job in jobs]:
                raise RunError(f"{member.title} has timed other steps than it was asked for")
            return found.taken

    def _answer(
        self, member: Member, answers: Mapping[int, Told], number: int, what: str, seconds: float
    ) -> Told:
        """Waits for an answer of a member; the condition is held. `what` says what the host was to do.

        Raises RunError where it can't, or does not within so many seconds.
        """
        clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
        while (found := answers.get(number)) is None:
            if member.lost or clock() > seconds:
                how = member.lost or f"did not within {seconds:g} s"
                raise RunError(f"{member.title} should {what}, and {how}")
            self._changed.wait(LOOK_SECONDS)
        if found.fault:
            raise RunError(f"{member.title}: {found.fault}")
        return found

    def ask_echo(self, host: int, port: int, token: bytes) -> None:
        """Has a host dial a port of this one, by a name, and send back what comes there."""
        with self._changed:
            self._send(self._members[host], AskEcho(port, token))

    def ask_copies(self, members: Collection[Member]) -> list[tuple[Member, CopySeen]]:
        """Returns those whose copy of the model is not as it was found, and what has become of it.

        Who does not tell within COPY_SECONDS, or is lost, is not among them. Any thread may ask.
        """
        clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
        with self._changed:
            asked = [member for member in members if not member.lost]
            numbers = {}
            for member in asked:
                member.num_looks += 1
                numbers[member.identity] = member.num_looks
                self._send(member, AskCopy(member.num_looks))
            while clock() < COPY_SECONDS and any(
                not member.lost and member.copy.number < numbers[member.identity] for member in asked
            ):
                self._changed.wait(LOOK_SECONDS)
            return [(member, member.copy) for member in asked if member.copy.change]

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


def _named(members: Sequence[Member]) -> str:
    return ", ".join(["this one", *(member.title for member in members)])
