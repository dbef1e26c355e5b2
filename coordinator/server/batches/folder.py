"""A folder of files that clients hand in or batches write, with a bound on all of their bytes.

A client's words are never part of a path: files are called by ids that are drawn here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_COST = 4096  # bytes that count for each file beside its content
MAX_NAME = 255  # characters
META = ".json"


class FolderError(OSError):
    """The folder can't be used; one sentence."""


class FullError(ValueError):
    """The folder has no room for more; one sentence."""


@dataclass(frozen=True)
class StoredFile:
    """A file that clients may ask for. purpose: batch, or batch_output. expires_at: None if it stays."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    def form(self) -> dict[str, Any]:
        """Returns the file as OpenAI describes one."""
        return {**asdict(self), "object": "file", "status": "processed"}


class Folder:
    """The folder, and which files are there. Everything but opening is called in one event loop."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Raises FolderError, also where another server uses the folder."""
        self.path, self.max_bytes = path, max_bytes
        self._files: dict[str, StoredFile] = {}
        with _errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._place, self.records = (_private(path / name) for name in ("files", "batches"))
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise FolderError(f"{path} is used by another server just now") from None
        with _errors(path):
            for found in self._place.glob(f"file-*{META}"):
                stored = _stored(found)
                if stored is not None and self.path_of(stored.id).is_file():
                    self._files[stored.id] = stored
            sizes = [entry.stat().st_size for entry in self._place.iterdir() if entry.suffix != META]
        self.used = sum(sizes) + FILE_COST * len(sizes)

    def close(self) -> None:
        """Lets another server have the folder."""
        os.close(self._lock)

    @property
    def free(self) -> int:
        """The bytes that still find room."""
        return max(0, self.max_bytes - self.used)

    def take(self, num_bytes: int) -> None:
        """Counts bytes that a file gets. Raises FullError where they find no room."""
        if num_bytes > self.free:
            raise FullError(
                f"the server keeps at most {self.max_bytes} bytes of files (--max-files-bytes), of which"
                f" {self.free} are free; delete files that are no longer needed"
            )
        self.used += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Counts bytes that are gone."""
        self.used -= num_bytes

    def path_of(self, file_id: str) -> Path:
        """Returns the place of a file. file_id: one that was drawn here."""
        return self._place / file_id

    def create(self) -> str:
        """Makes an empty file, which nobody can ask for yet, and returns its id. Raises FullError."""
        self.take(FILE_COST)
        file_id = f"file-{secrets.token_hex(16)}"
        os.close(os.open(self.path_of(file_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return file_id

    def keep(
        self, file_id: str, filename: str, purpose: str, expires_seconds: int | None = None
    ) -> StoredFile:
        """Lets clients ask for a file that is whole. expires_seconds: how long; None for good."""
        size, now = self.path_of(file_id).stat().st_size, int(time.time())
        expires_at = None if expires_seconds is None else now + expires_seconds
        stored = StoredFile(file_id, filename[:MAX_NAME], purpose, size, now, expires_at)
        write_whole(self._place / f"{file_id}{META}", asdict(stored))
        self._files[file_id] = stored
        return stored

    def drop(self, file_id: str) -> None:
        """Removes a file, whole or not."""
        self._files.pop(file_id, None)
        (self._place / f"{file_id}{META}").unlink(missing_ok=True)
        path = self.path_of(file_id)
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self.give_back(size + FILE_COST)

    def find(self, file_id: str) -> StoredFile | None:
        """Returns a file that clients may ask for."""
        return self._files.get(file_id)

    def all(self) -> list[StoredFile]:
        """Returns all that clients may ask for, the oldest first."""
        return sorted(self._files.values(), key=lambda stored: (stored.created_at, stored.id))

    def drop_expired(self, needed: Container[str]) -> None:
        """Removes the files whose time is over. needed: ids of files that stay, as batches read them."""
        now = time.time()
        for stored in list(self._files.values()):
            if stored.expires_at is not None and stored.expires_at <= now and stored.id not in needed:
                self.drop(stored.id)

    def drop_strays(self, needed: Iterable[str]) -> None:
        """Removes what was never whole, such as uploads that were cut off. needed: ids that batches write."""
        known = {*needed, *self._files}
        for path in list(self._place.iterdir()):
            if path.name.removesuffix(META) not in known and path.name.startswith("file-"):
                self.drop(path.name.removesuffix(META))


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """Writes a value as JSON, so that after a power cut either the old file or the new one is there."""
    content = json.dumps(value, ensure_ascii=True).encode()
    partial = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _private(path: Path) -> Path:
    """Makes a folder that only this user can enter. Raises FolderError for one of somebody else."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise FolderError(f"{path} is no folder of this user's own; name another place by --files-dir")
    path.chmod(0o700)
    return path


def _stored(path: Path) -> StoredFile | None:
    """Reads what is known of a file; None where it is nothing that was written here."""
    try:
        stored = StoredFile(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (stored.id, stored.filename, stored.purpose)
    numbers = [stored.bytes, stored.created_at]
    numbers += [] if stored.expires_at is None else [stored.expires_at]
    is_right = all(isinstance(text, str) for text in texts) and all(type(count) is int for count in numbers)
    return stored if is_right and f"{stored.id}{META}" == path.name else None


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FolderError:
        raise
    except OSError as error:
        raise FolderError(f"{path} can't be used for clients' files: {error.strerror}") from error
