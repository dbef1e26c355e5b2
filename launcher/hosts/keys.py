"""The key file of a group of hosts: made on one of them, and copied to all others."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from tplaunch.coordinator.curve import SECRET_BYTES
from tplaunch.launcher.errors import UsageError
from tplaunch.worker.folders import make_private, user_folder

PREFIX = "tplaunch-hosts-1 "  # of the file's only line; the number counts the forms of key files
LINE = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * SECRET_BYTES}}})\n?")
MAX_BYTES = 1024
HEAD, JOINER = "head", "joiner"  # who a key is derived for


def usual_key_file() -> Path | None:
    """Returns the place of the key file where none is named; None without a home folder."""
    folder = user_folder("XDG_CONFIG_HOME", ".config")
    return None if folder is None else folder / "tplaunch" / "hosts.key"


def key_path(text: str) -> Path:
    """Returns the path that --key gives. Raises UsageError for none, as of a variable that is not set."""
    if not text:
        raise UsageError("--key is empty; name the key file that all hosts have, or leave --key out")
    return Path(text)


def make_key_file(path: Path, secret: bytes | None = None) -> None:
    """Writes a key, which only its owner can read: a new one, where none is given.

    Raises UsageError, also where there is a file.
    """
    if os.path.lexists(path):
        raise UsageError(
            f"{path} is there already, and hosts may be using it; name another file, or remove it first"
        )
    try:
        make_private(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask is
        file.write(f"{PREFIX}{(secret or secrets.token_bytes(SECRET_BYTES)).hex()}\n")


def read_key_file(path: Path) -> bytes:
    """Returns the secret in a key file. Raises UsageError, also where others can read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            is_file = stat.S_ISREG(found.st_mode)  # a pipe may have nothing to read yet
            content = file.read(MAX_BYTES) if is_file else b""
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such key file; copy that of another host of the run, or make the first by `tplaunch"
            f" keygen {path}`"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not is_file:  # nobody shall change the permissions of a device
        raise UsageError(f"{path} is no regular file; copy the head's key file, and name that")
    if found.st_mode & 0o077:
        raise UsageError(
            f"{path} can be read by others than its owner; `chmod 600 {path}` keeps the key secret"
        )
    match = LINE.fullmatch(content.decode("ascii", "replace"))
    if match is None:
        raise UsageError(f"{path} is no key file; copy one that `tplaunch keygen` has made")
    return bytes.fromhex(match[1])
