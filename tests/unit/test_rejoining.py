"""`tplaunch join --rejoin`: what may pass is waited for, and said once; what may not ends with a sentence."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_hosts_head import SECRET, WAITS, World, expect, until
from tests.unit.test_hosts_places import JOIN
from tplaunch.coordinator.gguf.origin import model_hash
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.commands import join as command
from tplaunch.launcher.commands.join import JoinConfig, join
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts import head_link, joiner, messages
from tplaunch.launcher.hosts.addresses import Address, own_address_towards
from tplaunch.launcher.hosts.descriptions import WantedPart
from tplaunch.launcher.hosts.head_link import HeadGone, HeadLink
from tplaunch.launcher.hosts.keys import make_key_file
from tplaunch.launcher.hosts.messages import Leave, WantedModel


class Over(Exception):
    """The test ends; what waits for another head has no other end."""


class Rejoining:
    """`tplaunch join --rejoin` in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.said: list[str] = []
        self.num_tries = 0
        self._patch, self._key = monkeypatch, tmp_path / "hosts.key"
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self.end: BaseException | int | None = None
        make_key_file(self._key, SECRET)
        for module in (command, joiner):
            monkeypatch.setattr(module, "say", self.said.append)
        monkeypatch.setattr("tplaunch.launcher.commands.join.sleep", self._rest)

    def _rest(self, seconds: float) -> None:
        self.num_tries += 1
        if self._is_over.wait(0.01):
            raise Over

    def start(self, head: str, **options: Any) -> None:
        config = JoinConfig(head=head, key=str(self._key), devices="numpy", rejoin=True, **options)

        def run() -> None:
            try:
                self.end = join(config)
            except BaseException as error:
                self.end = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self) -> BaseException | int | None:
        """Waits for its own end."""
        assert self._thread is not None
        self._thread.join(WAITS)
        assert not self._thread.is_alive(), self.said
        return self.end

    def end_before_next_try(self) -> None:
        """A try that nobody answers would take its time."""
        self._is_over.set()

    def close(self) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(WAITS)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)


@pytest.fixture
def rejoining(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rejoining]:
    made = Rejoining(monkeypatch, tmp_path)
    yield made
    made.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
    for link in made.links:
        link.close()


def test_a_full_run_is_waited_for(rejoining: Rejoining, world: World) -> None:
    member = world.join("first")
    rejoining.start(str(world.address))
    until(lambda: rejoining.num_tries >= 2)
    assert rejoining.count("does not take this host: the run has all of its 2 hosts; this host goes on") == 1
    assert rejoining.count("joining") == 1
    member.send(Leave("it is tired"))
    until(lambda: rejoining.count("this is host 1 of 2"))
    rejoining.end_before_next_try()
    world.close()
    until(lambda: rejoining.count("has ended"))


def test_a_head_that_can_not_be_reached_yet_is_waited_for(
    rejoining: Rejoining, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(host: str) -> str:
        if rejoining.num_tries < 3:
            raise OSError(101, "Network is unreachable")
        return own_address_towards(host)

    monkeypatch.setattr("tplaunch.launcher.hosts.joiner.own_address_towards", unreachable)
    rejoining.start(str(world.address))
    until(lambda: rejoining.count("this is host 1 of 2"))
    assert (
        rejoining.count("can't be reached from here: Network is unreachable; this host goes on asking") == 1
    )


def test_a_name_that_can_not_be_looked_up_yet_is_waited_for(
    rejoining: Rejoining, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "head.lan" and rejoining.num_tries < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return find("127.0.0.1" if host == "head.lan" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    rejoining.start(f"head.lan:{world.address.port}")
    until(lambda: rejoining.count("this is host 1 of 2"))
    assert rejoining.count("it is looked up again") == 1


def test_a_name_that_nobody_has_is_not(rejoining: Rejoining, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    rejoining.start("no.such")
    assert isinstance(rejoining.wait(), UsageError)


def another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_link, "SHUT_SECONDS", 0.2)
    monkeypatch.setattr(command, "found_secret", lambda *_: bytes(32))


def another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joiner, "PROTOCOL_VERSION", messages.PROTOCOL_VERSION + 1)


def another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    part = WantedPart(10, 20, "ab" * 32)
    wanted = WantedModel("model", model_hash([part.file_hash]), (part,), 0.8)
    monkeypatch.setattr("tests.unit.test_hosts_head.WANTED", wanted)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (another_key, "takes no connection with this key"),
        (another_version, "does not take this host: .*install the same release on every host"),
        (another_model, "does not take this host: .*its model is not here"),
    ],
)
def test_what_does_not_pass_ends_with_a_sentence(
    fault: Callable[[pytest.MonkeyPatch], None],
    sentence: str,
    rejoining: Rejoining,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    world = World()
    try:
        rejoining.start(str(world.address))
        end = rejoining.wait()
        assert isinstance(end, RunError)
        with pytest.raises(RunError, match=sentence):
            raise end
    finally:
        world.close()


def test_a_head_that_ends_as_it_is_dialled_is_no_matter_of_keys() -> None:
    """It took the connection and was gone; nobody listens there afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = HeadLink(Address("127.0.0.1", server.getsockname()[1]), SECRET)
        link.send(replace(JOIN, name="beta"))
        connection, _ = server.accept()
        connection.close()
    try:
        until(lambda: link._shut_since is not None)
        until(lambda: link._shut_since is None)
        assert link.receive() is None
    except HeadGone as error:
        pytest.fail(str(error))
    finally:
        link.close()


def test_a_refusal_says_whether_it_passes(world: World) -> None:
    """The sentence of a refusal that may pass says so on the wire."""
    world.join("first")
    second = world.dial()
    second.send(replace(JOIN, name="second"))
    assert expect(second, messages.Refused).passes
