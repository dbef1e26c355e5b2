"""A small Hugging Face on loopback: repositories, gated and private ones, and responses that break off."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_small"


class SmallHub:
    """The state of the server; tests change it between requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.sizes: dict[str, int] = {}  # what it says of a file, in place of its size
        self.breaks_after: list[int] = []  # bytes of the next responses with content
        self.pauses_after: int | None = None  # bytes of the next response with content
        self.is_paused, self.goes_on = threading.Event(), threading.Event()
        self.knows_ranges = True
        self.status: int | None = None  # of every answer
        self.commit = COMMIT
        self.requests: list[str] = []  # method, path and range
        self.tokens_elsewhere: list[str] = []  # that went to the host of the contents
        self.url = ""

    @property
    def contents(self) -> list[str]:
        """The requests that got a file's content."""
        return [request for request in self.requests if request.startswith("GET /cdn/")]

    def environment(self, cache: Any) -> dict[str, str]:
        """Returns the variables of huggingface_hub: this server, a cache of its own and no token."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: SmallHub

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *args: Any) -> None:
        """Keeps the test's output clean."""

    def _answer(self, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        words = path.strip("/").split("/")
        if self.hub.status is not None:
            return self._send(self.hub.status)
        if words[:2] == ["api", "models"]:
            return self._send_listing("/".join(words[2:4]))
        if words[0] == "cdn":
            self.hub.tokens_elsewhere += self.headers.get_all("Authorization", [])
            return self._send_content(words[1], with_content)
        return self._send_file("/".join(words[:2]), "/".join(words[4:]))

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _is_visible(self, repository: str) -> bool:
        if repository in self.hub.repositories and (repository not in self.hub.private or self._has_token()):
            return True
        self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        return False

    def _send_listing(self, repository: str) -> None:
        if not self._is_visible(repository):
            return
        files = self.hub.repositories[repository]
        siblings = [
            {"rfilename": name, "size": self.hub.sizes.get(name, len(content))}
            for name, content in files.items()
        ]
        about = {"id": repository, "modelId": repository, "sha": self.hub.commit, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(about).encode())

    def _send_file(self, repository: str, name: str) -> None:
        """Large files are elsewhere; the answer says what they are, and where."""
        if not self._is_visible(repository):
            return
        if repository in self.hub.gated and not self._has_token():
            return self._send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        content = self.hub.repositories[repository].get(name)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
        etag = hashlib.sha256(content).hexdigest()
        self._send(
            302,
            {
                "X-Repo-Commit": self.hub.commit,
                "X-Linked-Etag": f'"{etag}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{etag}",  # another host
            },
        )

    def _send_content(self, etag: str, with_content: bool) -> None:
        files = (content for files in self.hub.repositories.values() for content in files.values())
        content = next(each for each in files if hashlib.sha256(each).hexdigest() == etag)
        wanted = self.headers.get("Range")
        start = (
            int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and self.hub.knows_ranges else 0
        )
        headers = {"ETag": f'"{etag}"', "Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, headers)
        if not with_content:
            return
        if self.hub.pauses_after is not None:
            pause, self.hub.pauses_after = self.hub.pauses_after, None
            self.wfile.write(content[start : start + pause])
            self.hub.is_paused.set()
            self.hub.goes_on.wait()
            self.close_connection = True
        elif self.hub.breaks_after:
            self.wfile.write(content[start : start + self.hub.breaks_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _send(self, status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve_hub() -> Iterator[SmallHub]:
    """A hub at a free port."""
    hub = SmallHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.goes_on.set()
            server.shutdown()
            thread.join()
