"""A model file's name: what is wrong with it, which one others can open, and whether the file changed."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

MAX_LINKS = 40  # as the kernel follows
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a disk",
}


def path_fault(path: Path) -> str | None:
    """Why no file can be read there, as a sentence; None where one can, as far as its name tells."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        return _refusal(path, error)
    except ValueError as error:  # a name with a zero byte
        return f"{str(path)!r} is no name of a file: {error}"
    if kind == stat.S_IFREG:
        return None
    return f"{path} is not a file, but {KINDS.get(kind, 'something else')}"


def _refusal(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"{path} can't be read: its links lead in a circle"
    if error.errno == errno.ENOENT:
        dangling = next((each for each in (path, *path.parents) if each.is_symlink()), None)
        if dangling is None:
            return f"{path}: no such file"
        return f"{path}: no such file: {dangling} is a link to {dangling.readlink()}, where nothing is"
    if error.errno == errno.ENOTDIR:
        return f"{path}: no such file: a part of its path is not a folder"
    return f"{path} can't be read: {error.strerror}"


def lasting_path(path: Path) -> str:
    """The name under which other processes of this machine open the same file, while this one lives.

    A name such as /dev/stdin or /proc/self/fd/7 is another file in each of them.
    """
    name = os.fspath(path)
    for _ in range(MAX_LINKS):
        folder = os.path.realpath(os.path.dirname(name) or ".")  # noqa: PTH120
        name = os.path.join(folder, os.path.basename(name))  # noqa: PTH118, PTH119
        # A link there, such as /proc/123/fd/7, is the open file itself, which may have no other name.
        if folder.startswith("/proc/") or not os.path.islink(name):  # noqa: PTH114
            break
        name = os.path.join(folder, os.readlink(name))  # noqa: PTH118, PTH115
    return name


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was read first."""

    path: str
    device: int
    inode: int
    num_bytes: int
    modified_ns: int

    @staticmethod
    def of(path: str) -> Stamp:
        """Raises OSError."""
        found = os.stat(path)  # noqa: PTH116
        return Stamp(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def is_descriptor(self, descriptor: int) -> bool:
        """Tells whether this process has the file open there."""
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def change(self) -> str | None:
        """Returns what has happened to the file since, as a sentence; None for nothing."""
        try:
            now = Stamp.of(self.path)
        except FileNotFoundError:
            return f"{self.path} was removed while it was in use"
        except OSError as error:
            return f"{self.path} can't be read any more: {error.strerror}"
        if (now.device, now.inode) != (self.device, self.inode):
            return f"{self.path} was replaced by another file while it was in use"
        return self.overwriting(now)

    def overwriting(self, now: Stamp | None = None) -> str | None:
        """The same for what changes the bytes that are in use: another file in its place does not."""
        try:
            now = now or Stamp.of(self.path)
        except OSError:
            return None
        if (now.device, now.inode) != (self.device, self.inode):
            return None
        if now.num_bytes != self.num_bytes:
            return f"{self.path} changed from {self.num_bytes} to {now.num_bytes} bytes while it was in use"
        if now.modified_ns != self.modified_ns:
            return f"{self.path} was written to while it was in use"
        return None
