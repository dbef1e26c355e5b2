"""Key files, and the sockets that they open to those who have one and to nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from tplaunch.coordinator.curve import Gate, Socket, dial_with, public_key, serve_with
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts import safety
from tplaunch.launcher.hosts.keys import make_key_file, read_key_file, usual_key_file
from tplaunch.launcher.hosts.safety import found_secret

SECRET, OTHER = bytes(range(32)), bytes(32)


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "hosts.key"
    before = os.umask(0)
    try:
        make_key_file(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    secret = read_key_file(path)
    assert len(secret) == 32 and len(set(secret)) > 8
    make_key_file(tmp_path / "second")
    assert read_key_file(tmp_path / "second") != secret


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (None, 0o600, "no such key file"),
        (b"", 0o600, "is no key file"),
        (b"tplaunch-hosts-1 " + b"0" * 63, 0o600, "is no key file"),
        (b"tplaunch-hosts-2 " + b"0" * 64, 0o600, "is no key file"),
        (b"tplaunch-hosts-1 " + b"0" * 64 + b"\nmore", 0o600, "is no key file"),
        (b"\xff" * 4096, 0o600, "is no key file"),
        (b"tplaunch-hosts-1 " + b"0" * 64, 0o640, "can be read by others"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes | None, mode: int, sentence: str) -> None:
    path = tmp_path / "hosts.key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(UsageError, match=sentence):
        read_key_file(path)


def test_only_a_regular_file_is_a_key(tmp_path: Path) -> None:
    """A pipe has no bytes yet, and nobody is told to change the permissions of a device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = os.open(pipe, os.O_RDWR)  # keeps it open, with nothing in it
    try:
        for path in (pipe, Path("/dev/zero")):
            with pytest.raises(UsageError, match=f"^{path} is no regular file; copy the head's key file"):
                read_key_file(path)
    finally:
        os.close(writer)


def test_no_key_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "hosts.key"
    path.write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        make_key_file(path)
    assert path.read_text() == "precious"
    with pytest.raises(UsageError, match="can't be written"):
        make_key_file(path / "below")
    with pytest.raises(UsageError, match="can't be read"):
        read_key_file(tmp_path)


def test_beyond_this_machine_there_is_a_key_or_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert found_secret(None, False, True, "here") is None
    place = tmp_path / "tplaunch" / "hosts.key"
    with pytest.raises(UsageError, match=f"there is beyond .* on the head; copy that file to {place} on"):
        found_secret(None, False, False, "there")  # a second `tplaunch keygen` would make another key
    assert not capsys.readouterr().err
    assert found_secret(None, True, False, "there") is None
    assert "WARNING: --insecure: there is used without any protection" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--key is empty; name the key file"):  # a variable that is not set
        found_secret("", False, True, "here")
    usual = usual_key_file()
    assert usual == tmp_path / "tplaunch" / "hosts.key"
    make_key_file(usual)
    assert found_secret(None, False, False, "there") == read_key_file(usual)
    with pytest.raises(UsageError, match="exclude each other"):
        found_secret(str(usual), True, False, "there")
    monkeypatch.setattr(safety, "has_curve", lambda: False)
    with pytest.raises(RunError, match="without CURVE"):
        found_secret(str(usual), False, False, "there")


@contextmanager
def served(names: list[str]) -> Iterator[tuple[Socket, str]]:
    """A server's socket of those with the secret, and its endpoint."""
    context: zmq.Context[Socket] = zmq.Context()
    Gate(context, SECRET, names)
    socket = context.socket(zmq.ROUTER)
    serve_with(socket, SECRET)
    socket.bind("tcp://127.0.0.1:*")
    try:
        yield socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        socket.close(linger=0)
        context.term()


@pytest.mark.parametrize(
    ("secret", "name", "is_heard"),
    [(SECRET, "one", True), (SECRET, "another", False), (OTHER, "one", False), (None, "", False)],
)
def test_only_those_with_a_key_are_heard(secret: bytes | None, name: str, is_heard: bool) -> None:
    context: zmq.Context[Socket] = zmq.Context()
    with served(["one"]) as (server, endpoint):
        dialer = context.socket(zmq.DEALER)
        if secret is not None:
            dial_with(dialer, secret, name)
        ends = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        monitor = dialer.get_monitor_socket(ends | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        dialer.connect(endpoint)
        dialer.send(b"hello")
        assert monitor.poll(20_000)
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        assert (event == zmq.EVENT_HANDSHAKE_SUCCEEDED) == is_heard
        assert bool(server.poll(20_000 if is_heard else 50)) == is_heard
        dialer.disable_monitor()
        monitor.close(linger=0)
        dialer.close(linger=0)
    context.term()


def test_nobody_passes_for_the_server() -> None:
    """A server that does not know the secret hears nothing of those who do."""
    context: zmq.Context[Socket] = zmq.Context()
    server = context.socket(zmq.ROUTER)
    serve_with(server, OTHER)
    server.bind("tcp://127.0.0.1:*")
    dialer = context.socket(zmq.DEALER)
    dial_with(dialer, SECRET, "one")
    monitor = dialer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    dialer.connect(server.getsockopt_string(zmq.LAST_ENDPOINT))
    dialer.send(b"hello")
    assert monitor.poll(20_000)
    assert int.from_bytes(monitor.recv_multipart()[0][:2], "little") == zmq.EVENT_DISCONNECTED
    dialer.disable_monitor()
    for socket in (monitor, dialer, server):
        socket.close(linger=0)
    context.term()


def test_every_name_has_a_key_of_its_own() -> None:
    keys = {public_key(secret, name) for secret in (SECRET, OTHER) for name in ("server", "one", "two")}
    assert len(keys) == 6
    with pytest.raises(ValueError, match="has 32 bytes, not 31"):
        public_key(SECRET[:-1], "one")
