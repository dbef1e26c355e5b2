"""Brings each host that lacks the model the part that its ranks read, and waits until it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.hosts.copies import MAX_NUMBERS, FetchPart
from tplaunch.launcher.hosts.fetching.obtain import size_text
from tplaunch.launcher.hosts.fetching.wanted import FIELDS, to_integers, wanted_blocks
from tplaunch.launcher.hosts.head import LOOK_SECONDS, Head
from tplaunch.launcher.hosts.members import Member
from tplaunch.launcher.lines import say
from tplaunch.launcher.model import Model
from tplaunch.running_clock import RunningClock

SAY_SECONDS = 5.0  # between lines that say how far a host is
AT_ONCE = MAX_NUMBERS // FIELDS * FIELDS  # numbers of a message


def bring_model(
    head: Head,
    choices: Sequence[DeviceChoice],
    plan: Sequence[RankShare],
    model: Model,
    patience_seconds: float,
    check: Callable[[], None],
) -> None:
    """Returns when every host has what its ranks read. Raises RunError where one can't get it.

    choices: the device of each rank. patience_seconds: without a further byte, of all hosts together. check:
    is called often, and may raise what ends the wait.
    """
    hosts = [choice.host for choice in choices]
    wishes, whose = {}, {}
    for host in sorted({*hosts} - {HEAD}):
        shares = [share for share, place in zip(plan, hosts, strict=True) if place == host]
        wishes[host], whose[host] = list(_parts(shares, model)), _possessive(shares)
    _await(head, head.ask_to_fetch(wishes), whose, patience_seconds, check)


def _possessive(shares: Sequence[RankShare]) -> str:
    """Returns the ranks for people, as the owners of something."""
    return ", ".join(f"rank {share.rank}'s" for share in shares)


def _parts(shares: Sequence[RankShare], model: Model) -> Iterator[FetchPart]:
    numbers = to_integers(wanted_blocks(model.spec, shares, model.tensors))
    for start in range(0, len(numbers), AT_ONCE):
        yield FetchPart(numbers[start : start + AT_ONCE], start + AT_ONCE >= len(numbers))


def _await(
    head: Head,
    members: Sequence[Member],
    whose: Mapping[int, str],
    patience_seconds: float,
    check: Callable[[], None],
) -> None:
    """whose: the ranks of each host, for people."""
    clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
    changed = said = clock()
    known: list[tuple[int, int]] = []
    while True:
        for member in members:
            what = f"{whose[member.host]} part of the model"
            if member.lost:
                raise RunError(f"{member.title}, fetching {what}: {member.lost}")
            if member.fetched is not None and member.fetched.fault:
                raise RunError(f"{member.title} can't fetch {what}: {member.fetched.fault}")
        if all(member.fetched is not None for member in members):
            return
        now, found = clock(), [member.fetching for member in members]
        if found != known:
            known, changed = found, now
        if now - changed > patience_seconds:
            raise RunError(f"{_progress(members)}, and nothing more has come for {patience_seconds:g} s")
        if now - said > SAY_SECONDS:
            said = now
            say(_progress(members))
        head.wait()
        check()


def _progress(members: Sequence[Member]) -> str:
    each = [
        f"{member.title} has fetched {size_text(member.fetching[0])} of {size_text(member.fetching[1])}"
        for member in members
        if member.fetched is None
    ]
    return ", ".join(each)
