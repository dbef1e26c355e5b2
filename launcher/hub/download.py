"""Brings one file of a repository into the cache of Hugging Face, going on where an earlier try ended.

The library that owns this cache is huggingface_hub. Its newer versions begin a file anew in every process, so
the content is read here, with the library's names and under its locks; it then finds the file there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NUM_TRIES = 5  # in a row without a byte
PAUSE_SECONDS = 1.0  # between these
TIMEOUT_SECONDS = 30.0  # without a byte
# The hub sends no larger file over HTTP; the library has another protocol for these.
MAX_BYTES = 50 * 1000**3
_ETAG = re.compile(r"[\w-]{1,128}", re.ASCII)  # it becomes a file's name

OnBytes = Callable[[int], None]


class BrokenConnectionError(OSError):
    """A response ended before its time."""


def repository_folder(cache: Path, repository: str) -> Path:
    """Returns the folder in which the library keeps the files of org/name."""
    return cache / ("models--" + repository.replace("/", "--"))


def bring_file(repository: str, name: str, cache: Path, on_bytes: OnBytes) -> Path:
    """Returns the path of a file in the cache, after downloading what is missing of it.

    on_bytes: told how many bytes more there are; a negative number where some were of no use.
    Raises what huggingface_hub, its HTTP client and the file system raise.
    """
    import huggingface_hub as hub
    from huggingface_hub.utils import WeakFileLock

    about = hub.get_hf_file_metadata(hub.hf_hub_url(repository, name), token=hub.get_token())
    etag, num_bytes = about.etag, about.size
    if etag and num_bytes and num_bytes <= MAX_BYTES and _ETAG.fullmatch(etag):
        folder = repository_folder(cache, repository)
        blob, lock = folder / "blobs" / etag, cache / ".locks" / folder.name / f"{etag}.lock"
        for path in (blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists():
                on_bytes(num_bytes)
            else:
                url = hub.hf_hub_url(repository, name, revision=about.commit_hash)
                partial = blob.with_name(f"{etag}.incomplete")
                _Download(url, num_bytes, on_bytes).run(partial)
                partial.replace(blob)
    return Path(hub.hf_hub_download(repository, name))


@dataclass(frozen=True)
class _Download:
    """One file, until it is whole."""

    url: str
    num_bytes: int
    on_bytes: OnBytes

    def run(self, path: Path) -> None:
        """Reads what the file lacks, and again where the connection breaks."""
        with path.open("ab") as output:
            if output.tell() > self.num_bytes:
                _empty(output)
            self.on_bytes(output.tell())
            tries_left = NUM_TRIES
            while (before := output.tell()) < self.num_bytes:
                try:
                    self._read_on(output)
                except Exception as error:
                    tries_left = NUM_TRIES if output.tell() > before else tries_left - 1
                    if not tries_left or not _is_passing(error):
                        raise
                    time.sleep(PAUSE_SECONDS if tries_left < NUM_TRIES else 0)

    def _read_on(self, output: BinaryIO) -> None:
        """Reads from where the file ends. A server that knows no ranges sends all of it again."""
        from huggingface_hub import get_token
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        start = output.tell()
        headers = {**build_hf_headers(token=get_token()), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", self.url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                _empty(output)
                self.on_bytes(-start)
            for chunk in response.iter_raw():  # as it comes: what fills no chunk must not be lost
                rest = self.num_bytes - output.tell()
                output.write(chunk[:rest])
                self.on_bytes(min(rest, len(chunk)))
                if len(chunk) > rest:
                    raise OSError(f"{self.url} sends more than the {self.num_bytes} bytes that it told of")
        if output.tell() < self.num_bytes:
            raise BrokenConnectionError(f"{self.url} ended after {output.tell()} of {self.num_bytes} bytes")


def _empty(output: BinaryIO) -> None:
    output.seek(0)
    output.truncate()


def _is_passing(error: Exception) -> bool:
    """Tells whether another try may help: of a broken connection, and of a server that is overloaded."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status == 429 or status >= 500)
    return isinstance(error, BrokenConnectionError) or is_of_http_client(error)


def is_of_http_client(error: BaseException) -> bool:
    """Tells whether the connection failed; what the client is called depends on huggingface_hub's version."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")
