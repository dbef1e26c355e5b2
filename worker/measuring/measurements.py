"""Keeps measurements of one device and driver in a file of the user's cache folder.

A measurement has a name and gives every option a number, such as the seconds that each variant of a kernel
takes. What follows from the numbers is decided by who reads them: options come and go with the code.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.folders import make_private, open_regular, replace_file, user_folder

Numbers: TypeAlias = dict[str, float | None]  # None: this option must not be chosen
FORMAT = 3  # counts up, too, when numbers were measured wrongly
MAX_FILE_BYTES = 1 << 20
MAX_WAIT_SECONDS = 60.0  # for another process: a slow driver compiles a kernel for most of that
TIE = 1.03  # measuring again may turn a smaller difference around

log = logging.getLogger("worker")


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/tplaunch or ~/.cache/tplaunch; None for a user without a home."""
    root = user_folder("XDG_CACHE_HOME", ".cache")
    return None if root is None else root / "tplaunch"


def lowest(numbers: Mapping[str, float | None], order: Sequence[str]) -> str:
    """The option with the lowest number; where some are about as low, the first of them in `order`.

    The first of all where not every one was measured.
    """
    usable = {option: number for option in order if (number := numbers.get(option)) is not None}
    if not usable or not numbers.keys() >= set(order):
        return order[0]
    limit = min(usable.values()) * TIE
    return next(option for option, number in usable.items() if number <= limit)


class Measurements:
    """The measurements of one device. `kernels` hashes all kernels: other kernels are measured again."""

    def __init__(self, folder: Path | None, device: Mapping[str, str], kernels: str) -> None:
        self._head = {"format": FORMAT, "device": dict(device), "kernels": kernels}
        identity = hashlib.sha256(json.dumps(self._head["device"], sort_keys=True).encode()).hexdigest()
        self.path = None if folder is None else folder / f"{identity[:32]}.json"
        self._found = self._read()
        self.new: dict[str, Numbers] = {}
        self.is_kept = False  # the file holds all that is new

    def get(self, name: str) -> Numbers:
        """Empty for what was not measured."""
        return self.new.get(name) or self._found.get(name) or {}

    def forget(self) -> None:
        """Nothing counts as measured; what is not measured again stays in the file."""
        self._found = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While this process finds out what others want to know, too; it reads first what they have found.

        Where the folder can't be written nobody waits, and each finds out for itself; so it is where another
        one takes longer than MAX_WAIT_SECONDS: a run may have been stopped while it finds out.
        """
        with ExitStack() as stack:
            if self.path is not None:
                with suppress(OSError):
                    make_private(self.path.parent)
                    _lock(stack, self.path.with_suffix(".lock"))
                    self._found = self._read()
            yield

    def put(self, name: str, numbers: Numbers) -> None:
        """Replaces earlier measurements of these options; `save` keeps the new ones."""
        rounded = {option: number and float(f"{number:.4g}") for option, number in numbers.items()}
        self.new[name] = {**self.get(name), **rounded}

    def save(self) -> None:
        """Adds what is new to the file. Where that can't be it only says so: the next start measures again.

        Another rank may do the same at the same time: the file is replaced as a whole, and at worst
        one of them measures again.
        """
        if not self.new:
            return
        if self.path is None:
            log.info("what was measured is not kept: there is no home folder, and XDG_CACHE_HOME is not set")
            return
        content = {**self._head, "measurements": {**self._read(), **self.new}}
        try:
            make_private(self.path.parent)
            replace_file(self.path, json.dumps(content, indent=1).encode())
            self.is_kept = True
        except OSError as error:
            log.info("what was measured is not kept: %s: %s", self.path, error.strerror)

    def _read(self) -> dict[str, Numbers]:
        """Reads the file's numbers for these kernels; none from a file that is missing, old or damaged."""
        if self.path is None:
            return {}
        try:
            with open_regular(self.path) as file:
                text = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.info("%s can't be read, measuring again: %s", self.path, error.strerror)
            return {}
        try:
            return self._checked(text)
        except (ValueError, RecursionError) as error:
            log.info("%s is damaged, measuring again: %s", self.path, error)
            return {}

    def _checked(self, text: bytes) -> dict[str, Numbers]:
        """Raises ValueError for what `save` does not write."""
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("measurements"), dict):
            raise ValueError("it holds no measurements")
        if any(content.get(key) != value for key, value in self._head.items()):
            log.info("%s is of other kernels, measuring again", self.path)
            return {}
        return {name: _checked_numbers(name, numbers) for name, numbers in content["measurements"].items()}


def _checked_numbers(name: str, numbers: Any) -> Numbers:
    if not isinstance(numbers, dict) or not all(map(_is_number, numbers.values())):
        raise ValueError(f"{name:.80} is no table of numbers")
    return {option: None if number is None else float(number) for option, number in numbers.items()}


def _is_number(value: Any) -> bool:
    if value is None:
        return True
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < 1e300 and math.isfinite(value)


def _lock(stack: ExitStack, path: Path) -> None:
    """Holds the lock until the stack ends, or gives it up with a remark. Raises OSError.

    Nothing that may lie at the path is waited for, such as a pipe.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)  # by which the kernel unlocks it
    clock = RunningClock()
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if clock() > MAX_WAIT_SECONDS:
            log.info("%s is held by another process for %.0f s, going on", path, MAX_WAIT_SECONDS)
            return
        time.sleep(LOOK_SECONDS)
