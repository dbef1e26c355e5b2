"""`tplaunch serve` as a user starts it, on two NumPy ranks: asked by curl, ended by signals."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.command_line import CommandLine
from tests.patience import PATIENCE, end_of
from tplaunch.coordinator.server.connections import NUM_TOLD

DEMO = ("serve", "--demo", "--devices", "numpy,numpy", "--port", "0")
ENDLESS = {
    "prompt": "Once upon a time",
    "max_tokens": 480,
    "ignore_eos": True,
    "stream": True,
    "temperature": 0,
}


def started(tplaunch: CommandLine, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Returns a server that takes requests, and its address."""
    process = tplaunch.start(*DEMO, *options)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"listening on (https?://\S+)", line)
        if found is not None:
            return process, found[1]
    raise AssertionError("".join(lines))


def ended(process: subprocess.Popen[str], code: int) -> str:
    """Returns what it has still said on standard error."""
    stderr = end_of(process)
    assert process.returncode == code, stderr
    return stderr


def await_drain(url: str) -> None:
    """Returns once the server takes no new requests, of which some must run, or it would be gone."""
    while get(f"{url}/health").status_code == 200:
        pass


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE)


def worker_of(tplaunch: CommandLine) -> psutil.Process:
    """Returns a rank's process; finding it takes longer than a text."""
    (found, *_) = [one for one in tplaunch.living_processes() if "tplaunch.worker" in " ".join(one.cmdline())]
    return found


class Reader:
    """Reads a stream in a thread of its own. on_begin: is called there when the first event has come."""

    def __init__(self, url: str, on_begin: Callable[[], None] = lambda: None, **fields: Any) -> None:
        self.events: list[str] = []
        self.has_begun = threading.Event()
        self._url, self._on_begin, self._fields = url, on_begin, {**ENDLESS, **fields}
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        assert self.has_begun.wait(PATIENCE)

    def _read(self) -> None:
        with (
            httpx.Client(timeout=PATIENCE) as client,
            client.stream("POST", f"{self._url}/v1/completions", json=self._fields) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data: "):
                    if not self.events:
                        self._on_begin()
                    self.events.append(line.removeprefix("data: "))
                    self.has_begun.set()


def texts_of(reader: Reader) -> dict[int, str]:
    """Returns the texts of a stream by their indices."""
    texts: dict[int, str] = {}
    for event in reader.events[:-1]:
        for choice in json.loads(event)["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@pytest.fixture
def curl() -> Iterator[str]:
    path = shutil.which("curl")
    if path is None:
        pytest.skip("curl is not installed")
    yield path


def test_curl_sees_tokens_as_they_come_and_the_server_drains(tplaunch: CommandLine, curl: str) -> None:
    process, url = started(tplaunch, "--model-name", "stories")
    body = json.dumps({**ENDLESS, "model": "stories", "max_tokens": 60, "n": 1})
    command = (curl, "-sSN", f"{url}/v1/completions", "-H", "Content-Type: application/json", "-d", body)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        first = json.loads(client.stdout.readline().removeprefix("data: "))
        process.send_signal(signal.SIGTERM)
        rest = client.stdout.read()
    assert first["model"] == "stories"
    chunks = [line.removeprefix("data: ") for line in rest.splitlines() if line]
    assert chunks[-1] == "[DONE]" and json.loads(chunks[-2])["choices"][0]["finish_reason"] == "length"
    assert ended(process, 0) == ""


@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 5])
def test_a_signal_ends_what_runs_with_an_error_event(
    tplaunch: CommandLine, numbers: list[signal.Signals]
) -> None:
    process, url = started(tplaunch)
    reader = Reader(url, n=32)  # one text alone may end before the second signal comes
    first, *others = numbers
    process.send_signal(first)
    if first == signal.SIGTERM:  # two that come at once are one for the kernel
        await_drain(url)
    for number in others:
        process.send_signal(number)
    ended(process, 128 + numbers[0])
    reader.thread.join(PATIENCE)
    *_, error, done = reader.events
    assert done == "[DONE]" and "the server ends" in json.loads(error)["error"]["message"]


def test_requests_may_go_on_only_so_long(tplaunch: CommandLine) -> None:
    process, url = started(tplaunch, "--drain-seconds", "0")
    reader = Reader(url, n=32)
    process.send_signal(signal.SIGTERM)
    ended(process, 128 + signal.SIGTERM)
    reader.thread.join(PATIENCE)


def test_a_rank_that_dies_turns_health_red(tplaunch: CommandLine) -> None:
    process, url = started(tplaunch)
    reader = Reader(url, worker_of(tplaunch).kill, n=32)
    reader.thread.join(PATIENCE)
    assert "rank" in json.loads(reader.events[-2])["error"]["message"]
    response = get(f"{url}/health")
    assert response.status_code == 503 and "rank" in response.json()["reason"]
    assert process.stderr is not None
    said = process.stderr.readline()
    assert f"{response.json()['reason']}; all requests are refused now" in said
    process.send_signal(signal.SIGTERM)
    tplaunch.printed += said + ended(process, 0) + response.text


def test_a_rank_that_dies_comes_back_and_the_stream_goes_on(tplaunch: CommandLine) -> None:
    process, url = started(tplaunch, "--restart-workers")
    undisturbed = Reader(url, n=2)
    undisturbed.thread.join(PATIENCE)
    reader = Reader(url, worker_of(tplaunch).kill, n=2)
    states = set()
    while reader.thread.is_alive():
        states.add((response := get(f"{url}/health")).json()["status"])
        assert (response.status_code == 200) == (response.json()["status"] == "ok")
    expected, found = texts_of(undisturbed), texts_of(reader)
    assert expected == found and len(found) == 2 and min(map(len, found.values())) > 480
    assert "restarting" in states <= {"ok", "restarting"} and get(f"{url}/health").status_code == 200
    process.send_signal(signal.SIGTERM)
    tplaunch.printed += (said := ended(process, 0))
    assert "the ranks are started again" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0"), "--no-auth"),
        (("--host", "no.such.host.invalid", "--no-auth"), "no.such.host.invalid"),
        (("--api-key", ""), "--api-key"),
        (("--ssl-certfile", "/nothing"), "/nothing"),
    ],
)
def test_a_server_that_can_not_be_is_refused_before_it_loads(
    tplaunch: CommandLine, options: tuple[str, ...], says: str
) -> None:
    result = tplaunch(*DEMO, *options)
    assert result.returncode == 2 and says in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_named(tplaunch: CommandLine) -> None:
    process, url = started(tplaunch)
    port = url.rpartition(":")[2]
    result = tplaunch(*DEMO[:-1], port)
    assert result.returncode == 2 and port in result.stderr and "in use" in result.stderr
    process.send_signal(signal.SIGTERM)
    ended(process, 0)


def test_https(tplaunch: CommandLine, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run([openssl, *made, *names, *files], check=True, capture_output=True)
    process, url = started(tplaunch, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    context = ssl.create_default_context(cafile=certificate)
    with httpx.Client(verify=context, timeout=PATIENCE) as client:
        assert client.get(f"{url}/health").json() == {"status": "ok"}
    process.send_signal(signal.SIGTERM)
    ended(process, 0)


def test_a_batch_survives_a_kill(tplaunch: CommandLine, tmp_path: Path) -> None:
    options = ("--files-dir", str(tmp_path / "kept"), "--parallel", "4")
    bodies = [
        {"prompt": f"Once {index}", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        for index in range(16)
    ]
    lines = [
        json.dumps({"custom_id": f"{index}", "method": "POST", "url": "/v1/completions", "body": body})
        for index, body in enumerate(bodies)
    ]
    process, url = started(tplaunch, *options)
    with httpx.Client(base_url=f"{url}/v1", timeout=PATIENCE) as client:
        content = "\n".join(lines).encode()
        file = client.post("/files", data={"purpose": "batch"}, files={"file": ("a", content)}).json()["id"]
        wish = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        place = f"/batches/{client.post('/batches', json=wish).json()['id']}"
        while client.get(place).json()["request_counts"]["completed"] < 3:
            pass
        process.kill()
    ended(process, -signal.SIGKILL)
    for left in (tplaunch.folder / "tmp").iterdir():  # as nobody could clean up
        shutil.rmtree(left)
    process, url = started(tplaunch, *options)
    with httpx.Client(base_url=f"{url}/v1", timeout=PATIENCE) as client:
        while (batch := client.get(place).json())["status"] != "completed":
            assert batch["status"] in ("in_progress", "finalizing")
        assert batch["request_counts"] == {"total": 16, "completed": 16, "failed": 0}
        output = client.get(f"/files/{batch['output_file_id']}/content").text.splitlines()
        assert sorted(int(json.loads(line)["custom_id"]) for line in output) == list(range(16))
    process.send_signal(signal.SIGTERM)
    ended(process, 0)


def test_folders_that_can_not_be_used(tplaunch: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for options, sentence in (
        (("--files-dir", str(tmp_path / "file")), "can't be used for clients' files: File exists"),
        (("--max-files-bytes", "much"), "--max-files-bytes: 'much' is no size"),
    ):
        result = tplaunch(*DEMO, *options)
        assert result.returncode == 2 and sentence in " ".join(result.stderr.split())


def test_silent_clients_beyond_the_limit_are_turned_away(tplaunch: CommandLine) -> None:
    process, url = started(tplaunch, "--max-connections", "20")
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with contextlib.ExitStack() as silent:
        for _ in range(19):
            silent.enter_context(socket.create_connection(address, PATIENCE))
        assert get(f"{url}/health").status_code == 200
        silent.enter_context(socket.create_connection(address, PATIENCE))
        for path, kind in (("/v1/completions", "server_error"), ("/v1/messages", "overloaded_error")):
            told = httpx.post(f"{url}{path}", json={}, timeout=PATIENCE)
            assert told.status_code == 503 and told.json()["error"]["type"] == kind
            assert "--max-connections" in told.json()["error"]["message"]
            assert (told.headers["retry-after"], told.headers["connection"]) == ("1", "close")
        for _ in range(NUM_TOLD):
            silent.enter_context(socket.create_connection(address, PATIENCE))
        for _ in range(200):
            with socket.create_connection(address, PATIENCE) as late:
                assert late.recv(100).startswith(b"HTTP/1.1 503")
    assert get(f"{url}/health").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert ended(process, 0) == ""
