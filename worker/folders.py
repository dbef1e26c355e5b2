"""The user's own folders, and folders that only the user may enter, whatever the umask is."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o700


def user_folder(variable: str, default: str) -> Path | None:
    """The folder that an XDG variable names, or `default` below the home folder; None without a home.

    Relative ones are ignored, as https://specifications.freedesktop.org/basedir-spec/ wants: they would be
    another folder in every place that the program is started from.
    """
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named
    if not Path(os.environ.get("HOME", "/")).is_absolute():
        return None
    try:
        return Path.home() / default
    except (RuntimeError, KeyError):  # a user id that no one knows
        return None


def make_private(folder: Path) -> None:
    """Makes the folder and those above it that are missing, each for its owner alone. Raises OSError."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for path in reversed(missing):
        try:
            path.mkdir(PRIVATE)
        except FileExistsError:
            if not path.is_dir():
                raise
            continue  # another rank was faster
        path.chmod(PRIVATE)  # a umask may have taken the owner's permissions


def temporary_parents() -> Iterator[Path]:
    """The temporary folder, and other places for where it can't be used."""
    with suppress(FileNotFoundError):  # what Python says where none that it knows can be written
        yield Path(tempfile.gettempdir())
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute():
        yield runtime
    yield from map(Path, ("/tmp", "/var/tmp", "/dev/shm"))


def private_temporary(prefix: str, parent: Path | None = None) -> Path:
    """A new folder below `parent`, or below the first temporary one that takes it, for its owner alone.

    Raises OSError.
    """
    if parent is not None:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        folder.chmod(PRIVATE)
        return folder
    refusal: OSError = FileNotFoundError(errno.ENOENT, "there is no folder for temporary files")
    for each in temporary_parents():
        try:
            return private_temporary(prefix, each)
        except OSError as error:
            refusal = error
    raise refusal


def replace_file(path: Path, content: bytes) -> None:
    """Writes the file beside the old one, for its owner alone, and then puts it into its place.

    Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)  # whatever the umask is
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def open_regular(path: Path) -> BinaryIO:
    """The file to read. Raises OSError, also for what is no file: a pipe would be waited for for ever."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115, PTH123
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no file")
    return file


def is_private(found: os.stat_result) -> bool:
    """Returns true for what belongs to this user, and no other one may write."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_own_folder(path: Path) -> bool:
    """Returns true for a folder of this user that is not a link."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
