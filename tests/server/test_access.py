"""Who may ask, and how much: keys, Host and Origin headers, sizes and depths of bodies, and the queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import GREEDY, Served, served
from tplaunch.coordinator.options import OptionError
from tplaunch.coordinator.server.access import LOOPBACK_NAMES, Access, digest_of
from tplaunch.coordinator.server.listening import ListenError, check_certificate
from tplaunch.coordinator.server.settings import ClientLimits, ServerSettings

SITE = "https://chat.example"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    access = Access((digest_of("first"), digest_of("zweiter Schlüssel")), frozenset(LOOPBACK_NAMES), (SITE,))
    with served(access=access, client_limits=ClientLimits(body_bytes=10_000)) as running:
        yield running


def models(server: Served, **headers: str) -> httpx.Response:
    with server.client() as client:
        return client.get("/v1/models", headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer first"},
        {"x-api-key": "first"},
        {"x-api-key": "zweiter Schlüssel".encode().decode("latin-1")},
    ],
)
def test_a_key_opens(guarded: Served, headers: dict[str, str]) -> None:
    with guarded.client() as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        assert client.get("/v1/models", headers=raw).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer firs"},
        {"authorization": "Bearer first2"},
        {"authorization": "Basic first"},
        {"authorization": "first"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/props", "/page/status", "/nothing"])
def test_without_one_nothing_is_told(guarded: Served, headers: dict[str, str], path: str) -> None:
    with guarded.client() as client:
        response = client.get(path, headers=headers)
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_the_messages_path_has_its_own_form_of_errors(guarded: Served) -> None:
    response = guarded.post("/v1/messages")
    assert response.status_code == 401
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "authentication_error"


def test_health_needs_no_key(guarded: Served) -> None:
    assert guarded.get("/health").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "", "[::2]"]
)
def test_a_name_that_was_bent_to_this_machine_is_refused(guarded: Served, host: str) -> None:
    response = models(guarded, host=host, authorization="Bearer first")
    assert response.status_code == 403 and response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "localhost."])
def test_names_of_this_machine_are_known(guarded: Served, host: str) -> None:
    assert models(guarded, host=host, authorization="Bearer first").status_code == 200


def test_pages_of_other_sites_may_not_ask(guarded: Served) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        response = models(guarded, origin=origin, authorization="Bearer first")
        assert response.status_code == 403 and response.json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in response.headers
    assert models(guarded, origin=guarded.url, authorization="Bearer first").status_code == 200


def test_a_named_site_may(guarded: Served) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with guarded.client() as client:
        leave = client.options("/v1/chat/completions", headers={"origin": SITE, **asks})
    assert leave.status_code == 200 and leave.headers["access-control-allow-origin"] == SITE
    response = models(guarded, origin=SITE, authorization="Bearer first")
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == SITE


def test_by_default_no_other_site_is_allowed(server: Served) -> None:
    with server.client() as client:
        asks = {"origin": SITE, "access-control-request-method": "POST"}
        assert client.options("/v1/completions", headers=asks).status_code == 403


def long_body() -> Iterator[bytes]:
    for _ in range(100):
        yield b" " * 1000


def test_a_long_body_is_refused_while_it_comes(guarded: Served) -> None:
    headers = {"authorization": "Bearer first"}
    with guarded.client() as client:
        for content in (b" " * 10_001, long_body()):
            response = client.post("/v1/completions", content=content, headers=headers)
            assert response.status_code == 413 and "10000 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "no object"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"prompt": ' + b"9" * 600 + b"}", "a whole number has 600 digits, and at most 512 are read"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"prompt": "\\ud800"}', "half"),
        (b'{"prompt": ' + b"[" * 200 + b"]" * 200 + b"}", "deep"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "deep"),
    ],
)
def test_a_body_that_is_no_request_is_refused(server: Served, body: bytes, says: str) -> None:
    with server.client() as client:
        response = client.post("/v1/completions", content=body)
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


def test_a_full_queue_says_when_to_come_back() -> None:
    with served(max_open=2) as server:
        assert server.run is not None and server.run.session is not None
        requests, may_go_on = server.run.session.requests, threading.Event()
        step, has_stepped = server.run.session.requests.step, threading.Event()

        def slow() -> Any:
            has_stepped.set()
            assert may_go_on.wait(30)
            return step()

        requests.step = slow  # type: ignore[method-assign]
        body = {"prompt": [[5], [6]], "max_tokens": 2, **GREEDY}
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", **body)))
        thread.start()
        assert has_stepped.wait(30)
        refused = server.post("/v1/completions", **body)
        may_go_on.set()
        thread.join(30)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert answers[0].status_code == 200
        assert server.post("/v1/completions", **body).status_code == 200


def settings(**fields: Any) -> ServerSettings:
    return ServerSettings(**fields)


def test_beyond_this_machine_keys_are_needed(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(OptionError, match="--no-auth"):
            settings(host=host).access({})
        assert settings(host=host, no_auth=True).access({}) == Access()
        assert settings(host=host).access({"TPLAUNCH_API_KEY": "k"}).keys == (digest_of("k"),)
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        access = settings(host=host).access({})
        assert not access.keys and access.knows_name(f"[{host}]" if ":" in host else host)
        assert not access.knows_name("evil.example")


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n  second  \n")
    found = settings(host="0.0.0.0", api_key_file=str(path), api_keys=("third",)).access({})
    assert set(found.keys) == {digest_of(key) for key in ("first", "second", "third")}
    path.write_text("# none\n")
    (endless := tmp_path / "endless").write_bytes(b"k\n" * (1 << 20))
    for wrong in (str(path), str(tmp_path), str(tmp_path / "missing"), str(endless)):
        with pytest.raises(OptionError, match="--api-key-file"):
            settings(api_key_file=wrong).access({})


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 65536},
        {"api_keys": ("",)},
        {"cors_origins": (" ",)},
        {"cors_origins": ("chat.example",)},
        {"cors_origins": ("https://chat.example", "https://chat.example/page")},
        {"drain_seconds": -1.0},
        {"max_queue": 0},
        {"ssl_keyfile": "key.pem"},
        {"tool_format": "hermess"},
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="--"):
        settings(**fields)


def test_sites_are_named_as_browsers_name_them() -> None:
    access = settings(cors_origins=("https://Chat.example:8080/", "null")).access({})
    for origin in ("https://chat.example:8080", "null"):
        assert access.allows_origin(origin, "localhost")
    assert not access.allows_origin("https://chat.example", "localhost")
    assert settings(cors_origins=("*",)).access({}).allows_origin("https://any.example", "localhost")


def test_a_key_and_no_auth_contradict_each_other() -> None:
    with pytest.raises(OptionError, match="contradict"):
        settings(api_keys=("a",), no_auth=True).access({})


def test_a_file_that_is_no_certificate_is_said_plainly(tmp_path: Path) -> None:
    (path := tmp_path / "certificate.pem").write_text("none")
    with pytest.raises(ListenError, match="no certificate in PEM"):
        check_certificate(path, None)
    with pytest.raises(ListenError, match="no such file"):
        check_certificate(tmp_path / "none", None)
