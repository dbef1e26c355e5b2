"""The hosts of a run that others have joined, with a stand-in for the head's connection to them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.models import config_of
from tests.no_processes import NoProcesses
from tests.unit.test_hosts_places import JOIN
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import WorkerChannel
from tplaunch.coordinator.serving.failures import ClosedError, LastingError, RunError
from tplaunch.launcher.config import NUMBERED, PLACED
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import Address, parse_address
from tplaunch.launcher.hosts.copies import CopySeen
from tplaunch.launcher.hosts.finder import FolderFinder
from tplaunch.launcher.hosts.head import Head
from tplaunch.launcher.hosts.head_link import HeadGone
from tplaunch.launcher.hosts.head_socket import open_post
from tplaunch.launcher.hosts.inviting import say_how_to_join
from tplaunch.launcher.hosts.joiner import Joiner, Membership
from tplaunch.launcher.hosts.links import Interface
from tplaunch.launcher.hosts.members import Member, choice_of
from tplaunch.launcher.hosts.opening import JoinedHosts, open_hosts
from tplaunch.launcher.model import Model
from tplaunch.launcher.signals import Signalled

OWN = choice_of(JOIN.devices[0], 0, JOIN)


class OneMember:
    """A head with one other host, which is reached by an address."""

    silence_seconds = 4.0

    def __init__(self, address: str) -> None:
        join = replace(JOIN, interface=Interface("eth0", address))
        self.members = [Member(b"id", join, host=1)]
        self.alarm = 0
        self.stopped: list[tuple[bool, bool]] = []  # at once, and with logs that stay
        self.copy = CopySeen(1)  # of the model, there

    def await_hosts(
        self, seconds: float, check: Callable[[], None], say: Callable[[str], None]
    ) -> list[Member]:
        return self.members

    def need(self, num_devices: Mapping[int, int]) -> None:
        assert num_devices in ({1: 1}, {1: 2})

    def start(
        self, ranks: Mapping[int, tuple[Sequence[int], Sequence[int]]], port: int, secret: bytes
    ) -> dict[int, Member]:
        assert ranks == {1: ([1], [0])}
        return {1: self.members[0]}

    def ask_copies(self, members: Collection[Member]) -> list[tuple[Member, CopySeen]]:
        return [(member, self.copy) for member in members if self.copy.change]

    def stop(self, members: Collection[Member], *, at_once: bool, keeps_logs: bool, seconds: float) -> None:
        assert list(members) == self.members
        self.stopped.append((at_once, keeps_logs))


def joined(head: OneMember, listen: str, model: Path) -> JoinedHosts:
    return JoinedHosts(config_of(model), cast(Head, head), Address(listen, 5670), None, [OWN])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_workers_reach_a_head_that_listens_on_all_addresses_of_ipv6(tmp_path: Path) -> None:
    hosts = joined(OneMember("::1"), "::", tmp_path / "model.gguf")
    ranks = hosts.ranks(hosts.choices)
    channel = WorkerChannel(f"ipc://{tmp_path}/control", 2, NoProcesses(), ranks.door)
    try:
        for address in ("::1", "127.0.0.1"):
            socket.create_connection((address, channel.port), timeout=20).close()
    finally:
        channel.close()


def test_a_host_whose_own_address_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(host: str) -> str:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("tplaunch.launcher.hosts.way_in.own_address_towards", refuse)
    with pytest.raises(
        RunError, match=r"host 1 \(beta\) can't be reached at its own address 10.9.9.9 .*: Net"
    ):
        joined(OneMember("10.9.9.9"), "0.0.0.0", tmp_path / "model.gguf")


@pytest.mark.parametrize("address", ["", "example.org", "10.0.0", "1.2.3.4 "])
def test_an_interface_has_a_number_for_its_address(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Interface("eth0", address)


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        (None, (False, False)),
        (WorkerError(1, "rank 1 failed"), (True, True)),
        (KeyboardInterrupt(), (True, False)),
        (ClosedError("the model was closed"), (True, False)),
    ],
)
def test_logs_of_another_host_stay_where_a_rank_has_failed(
    error: BaseException | None, stop: tuple[bool, bool], tmp_path: Path
) -> None:
    """Who ends a run with Ctrl-C finds no logs on its own host, and shall leave none on others."""
    head = OneMember("127.0.0.1")
    hosts = joined(head, "127.0.0.1", tmp_path / "model.gguf")
    ranks = hosts.ranks(hosts.choices)
    with suppress(WorkerError, KeyboardInterrupt, ClosedError), ranks.started(99):
        if error is not None:
            raise error
    assert head.stopped == [stop]


def test_each_rank_of_a_host_that_was_replaced_has_a_device_of_its_own(tmp_path: Path) -> None:
    """The ranks had two of three devices; the other host has one of these, in another place."""
    head = OneMember("127.0.0.1")
    cards = [replace(JOIN.devices[0], index=index, uuid=str(index)) for index in range(4)]

    def is_lent(*indices: int) -> list[DeviceChoice]:
        head.members[0] = Member(b"id", replace(JOIN, devices=tuple(cards[index] for index in indices)), 1)
        return head.members[0].choices

    is_lent(0, 1, 2)
    hosts = joined(head, "127.0.0.1", tmp_path / "model.gguf")
    own, _, *before = hosts.choices
    same, first_other, _ = is_lent(2, 3, 0)
    assert hosts.present([own, *before], lambda: None) == [own, first_other, same]
    is_lent(2)
    with pytest.raises(RunError, match=r"host 1 \(beta\) has too few devices: the run needs 2"):
        hosts.present([own, *before], lambda: None)


def test_a_host_that_is_lost_before_its_ranks_start_is_named_at_once(tmp_path: Path) -> None:
    """Nobody waits for another one as long as hosts may take to join, unless ranks are started again."""
    head = OneMember("127.0.0.1")
    hosts = joined(head, "127.0.0.1", tmp_path / "model.gguf")
    head.members[0].lost = "said nothing for 4 s"
    with pytest.raises(
        RunError,
        match=r"host 1 \(beta\), before its ranks were started: rank 1 is lost: it said nothing for 4 s",
    ):
        hosts.present(hosts.choices, lambda: None)


def test_a_copy_that_has_changed_since_its_host_joined_is_named_before_ranks_start(tmp_path: Path) -> None:
    head = OneMember("127.0.0.1")
    hosts = joined(head, "127.0.0.1", tmp_path / "model.gguf")
    ranks = hosts.ranks(hosts.choices)
    with ranks.started(99):
        assert ranks.copy_change() is None
        head.copy = CopySeen(1, "/m.gguf was replaced by another file while it was in use")
        assert ranks.copy_change() == f"on host 1 (beta) {head.copy.change}"
        assert ranks.copy_change(only_overwriting=True) is None  # the bytes in use are the same
    with pytest.raises(
        LastingError,
        match=r"the copy of the model on host 1 \(beta\) has changed: /m\.gguf was replaced .*; put it back",
    ):
        hosts.present(hosts.choices, lambda: None)


@pytest.mark.parametrize(
    ("error", "keeps"),
    [(None, False), (Signalled(15), False), (HeadGone("said nothing"), True), (RunError("it failed"), True)],
)
def test_a_joining_host_keeps_logs_as_the_head_does(
    error: BaseException | None, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(Joiner, "_stop", lambda self, *, at_once, keeps_logs: stopped.append(keeps_logs))
    membership = Membership(Address("127.0.0.1", 9), None, 0, None, False)
    with suppress(Signalled, HeadGone, RunError), Joiner(membership, [OWN], FolderFinder((), ())):
        if error is not None:
            raise error
    assert stopped == [keeps]


@pytest.mark.parametrize(
    ("secret", "listen", "lines"),
    [
        (None, None, ["join 127.0.0.1:5670", "without a key no other machine can join"]),
        (bytes(32), "127.0.0.1", ["join 127.0.0.1:5670"]),
        (bytes(32), "[fe80::1%eth0]", ["join '[fe80::1%eth0]:5670'", "there, % stands before the name"]),
    ],
)
def test_how_to_join_is_a_command_that_a_shell_takes(
    secret: bytes | None,
    listen: str | None,
    lines: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Brackets are a pattern for a shell, and zsh refuses one that nothing matches."""
    config = replace(config_of(tmp_path / "model.gguf"), hosts=2, listen=listen)
    say_how_to_join(config, parse_address(listen or "127.0.0.1", "--listen"), secret)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "tplaunch: waiting for 1 more host; on each of them run:"
    assert all(line in text for line, text in zip(lines, said[1:], strict=True))


@pytest.mark.parametrize(
    ("num_hosts", "way", "ranks"),
    [(2, NUMBERED, "node rank 1 of 2"), (4, NUMBERED, "node ranks 1, 2 and 3 of 4"), (3, PLACED, "")],
)
def test_hosts_that_come_by_themselves_are_not_told_how_to_join(
    num_hosts: int, way: str, ranks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config_of(tmp_path / "model.gguf"), hosts=num_hosts, others_come=way)
    say_how_to_join(config, parse_address("10.0.0.1", "--listen"), bytes(32))
    said = f"tplaunch: waiting for {ranks} at port 5670: the same command must run there, too\n"
    assert capsys.readouterr().err == (said if ranks else "")


def test_an_address_of_another_machine_is_not_listened_at(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path / "model.gguf"), hosts=2, listen="192.0.2.1", devices="numpy")
    sentence = r"--listen 192\.0\.2\.1:5670: this machine has no such address; it has .*127\.0\.0\.1"
    with pytest.raises(UsageError, match=sentence), open_hosts(config, cast(Model, None)):
        pass


def test_a_port_that_another_run_has_is_named_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"^--listen 127.0.0.1:{port}: Address already in use; choose another address or port$"
        with pytest.raises(UsageError, match=sentence):
            open_post(Address("127.0.0.1", port), None, 1.0)
