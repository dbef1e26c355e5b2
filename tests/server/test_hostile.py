"""Harm that clients send ends their own requests, and has no other one wait."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.fake_session import demo_model
from tests.patience import PATIENCE
from tests.serving import ECHO, GREEDY, Served, served
from tplaunch.coordinator.server import bodies, connections, service
from tplaunch.coordinator.server.openai.fields import CompletionFields
from tplaunch.coordinator.server.rendering import rendered
from tplaunch.coordinator.server.wanted import ChatRequest
from tplaunch.coordinator.serving.opened import Opened

LONG = "long " * 20_000
SHORT: list[Any] = [{"role": "user", "content": "Once"}]


@pytest.fixture(scope="module")
def templated() -> Iterator[Served]:
    with served(metadata={**demo_model().metadata, "tokenizer.chat_template": ECHO}) as made:
        yield made


class Crowd:
    """Clients that all ask for one thing."""

    def __init__(self, server: Served, count: int, path: str, **body: Any) -> None:
        self.found: list[httpx.Response] = []
        self._threads = [
            threading.Thread(target=lambda: self.found.append(server.post(path, **body)))
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join(PATIENCE)
        return [response.status_code for response in self.found]


def test_slow_grammars_keep_no_conversation_waiting(
    templated: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars, may_go_on, has_begun = templated.opened.grammars, threading.Event(), threading.Event()
    compile_grammar = grammars.compile

    def slow(spec: Any) -> Any:
        has_begun.set()
        assert may_go_on.wait(PATIENCE)
        return compile_grammar(spec)

    monkeypatch.setattr(grammars, "compile", slow)
    crowd = Crowd(templated, 12, "/v1/completions", prompt=[5], max_tokens=1, guided_regex="a|b")
    assert has_begun.wait(PATIENCE)
    chat = templated.post("/v1/chat/completions", messages=SHORT, max_tokens=1, **GREEDY)
    text = templated.post("/v1/completions", prompt="Once " * 900, max_tokens=1)
    assert chat.status_code == 200 and not crowd.found
    assert text.status_code == 400 and "too many" in text.text  # it was read
    may_go_on.set()
    assert crowd.join() == [200] * 12


def test_long_conversations_keep_no_short_one_waiting(
    templated: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, has_begun = threading.Event(), threading.Event()

    def slow(opened: Opened, request: ChatRequest) -> tuple[str, list[int]]:
        if len(str(request.messages)) > len(LONG):
            has_begun.set()
            assert may_go_on.wait(PATIENCE)
        return rendered(opened, request)

    monkeypatch.setattr(service, "rendered", slow)
    long = [{"role": "user", "content": LONG}]
    crowd = Crowd(templated, 8, "/v1/chat/completions", messages=long, max_tokens=1)
    assert has_begun.wait(PATIENCE)
    for _ in range(3):
        assert templated.post("/v1/chat/completions", messages=SHORT, max_tokens=1).status_code == 200
    assert not crowd.found
    may_go_on.set()
    assert crowd.join() == [400] * 8


def test_a_body_of_very_many_values_is_refused_before_it_is_read(server: Served) -> None:
    many = b"[]," * 600_000
    for content in (
        b'{"x": [%b[]]}' % many,
        b'{"prompt": [%b[]]}' % many,
        b'{"x": [%b""]}' % (b'"",' * 600_000),
        b'{"x": [%b[]]}' % ((b"[" * 60 + b"]" * 60 + b",") * 9_000),  # with few commas
        b'{"x": {%b"a": 1}}' % (b'"a": 1,' * 200_000),  # names take longest
    ):
        with server.client() as client:
            begun = time.process_time()
            response = client.post("/v1/completions", content=content)
        assert response.status_code == 413 and "524288 values" in response.text
        assert time.process_time() - begun < 1
    in_text = b'{"prompt": [5], "max_tokens": 1, "x": "%b \\" [[["}' % many
    with server.client() as client:
        assert client.post("/v1/completions", content=in_text).status_code == 200


def test_of_many_wrong_items_one_is_looked_at() -> None:
    for name in ("prompt", "stop", "allowed_token_ids", "guided_choice"):
        with pytest.raises(ValidationError) as raised:
            CompletionFields.model_validate({name: [[{}]] * 1000})
        assert len(raised.value.errors()) <= 5  # one for each form that the field may have


def test_sentences_that_quote_a_client_are_cut(server: Served) -> None:
    for body in (
        b'{"prompt": "a", "seed": -1%b}' % (b"0" * 4000),
        b'{"samplers": [%b"a"]}' % (b'"a",' * 9999),
    ):
        with server.client() as client:
            response = client.post("/v1/completions", content=body)
        assert response.status_code == 400 and len(response.content) < 1500, response.text[:300]


def test_a_request_that_rules_out_every_token_is_its_clients_fault(server: Served) -> None:
    size = demo_model().spec.vocabulary_size
    body = {"prompt": [5], "max_tokens": 1, "bad_token_ids": list(range(size))}
    response = server.post("/v1/completions", **body)
    assert response.status_code == 400 and "ruled out" in response.json()["error"]["message"]
    assert server.get("/health").status_code == 200


def test_a_client_that_never_says_what_it_wants_is_let_go(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for begin in (b"", whole[:20], whole + whole[:30]):
        with contextlib.ExitStack() as stack:
            with server.still():
                client = stack.enter_context(server.connect())
                client.sendall(begin)
            received = b"".join(iter(partial(client.recv, 4096), b""))
        assert received.count(b"HTTP/1.1 200") == begin.count(b"\r\n\r\n")


def test_a_body_that_never_ends_is_told_so(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
    with server.connect() as client:
        client.sendall(head)
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_slow_bodies_are_not_let_go(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    body = b'{"prompt": [5], "max_tokens": 2}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as stack:
        with server.still():
            client = stack.enter_context(server.connect())
            client.sendall(head + body[:9])
        for part in (body[9:20], body[20:]):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), server.loop).result(PATIENCE)
            client.sendall(part)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_room_for_connections_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: made.append(limits))
    for hard, found in ((10_000, 2048), (1024, 768), (-1, 2048), (100, 1)):
        limits = (100, hard)
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limits=limits: limits)
        assert connections.make_room(2048) == found
    assert made == [(2304, 10_000), (1024, 1024), (2304, -1), (100, 100)]


def test_what_clients_do_wrong_is_not_logged(server: Served, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = (
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    )
    for sent in wrong:
        with server.connect() as client:
            client.sendall(sent)
            assert client.recv(100).startswith(b"HTTP/1.1")
    assert capfd.readouterr().err == ""


def test_who_sends_too_much_hears_of_it(server: Served) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    sent = b"%bContent-Length: 40000000\r\n\r\n%b" % (head, b" " * 40_000_000)
    with server.connect() as client:
        client.sendall(sent)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_many_short_prompts_are_not_read_in_the_event_loop(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, threads = server.opened.needed_tokenizer(), set[str]()
    encode = tokenizer.encode

    def noted(text: str, **options: bool) -> list[int]:
        threads.add(threading.current_thread().name.partition("_")[0])
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", noted)
    for prompts, lane in ((["Once"] * 2, "server"), (["Once " * 10] * 200, "tplaunch quick")):
        threads.clear()
        assert server.post("/v1/completions", prompt=prompts, max_tokens=1).status_code == 200
        assert threads == {lane}


def test_one_request_has_no_more_texts_than_others_can_wait_for(server: Served) -> None:
    response = server.post("/v1/completions", prompt=["a"] * 1000, n=3, max_tokens=1)
    assert response.status_code == 400 and "2048 texts" in response.text
