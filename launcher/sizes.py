"""Sizes of memory and of messages as people write them: `--max-memory` and `--sizes`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tplaunch.launcher.errors import UsageError

UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
KNOWN_UNITS = {unit.upper(): factor for unit, factor in UNITS.items()}
MESSAGE_UNITS = {**KNOWN_UNITS, "K": 1 << 10, "M": 1 << 20}  # of memory, K might be meant as 1000
MAX_MESSAGE = 1 << 30  # bytes
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
MAX_SIZE = 1 << 50  # bytes; no device has as many
CPU = "cpu"


def parse_size(text: str, units: Mapping[str, int] = KNOWN_UNITS) -> int:
    """Bytes of a size such as 8GiB, 20 GB or 123456789. Raises ValueError."""
    match = SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in units:
        raise ValueError(f"{text!r:.40} is no size")
    size = int(float(match[1]) * units[match[2].upper()])
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"{text!r:.40} is out of range")
    return size


def parse_message_sizes(text: str) -> tuple[int, ...]:
    """Bytes of sizes such as 16K,1M. Raises UsageError."""
    try:
        sizes = tuple(parse_size(part, MESSAGE_UNITS) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if not all(4 <= size <= MAX_MESSAGE and size % 4 == 0 for size in sizes):
        raise UsageError(f"--sizes {text:.40}: multiples of 4 up to 1024M are needed, such as 16K,1M")
    return sizes


def parse_max_memory(text: str) -> dict[int | None, int]:
    """Bytes by device index, as 0=8GiB,1=20GiB; the key of cpu, which is this machine's memory, is None."""
    found: dict[int | None, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        name = name.strip().lower()
        try:
            if name != CPU and not re.fullmatch("[0-9]{1,4}", name):
                raise ValueError(f"{name!r:.40} is no device index")
            place = None if name == CPU else int(name)
            if place in found:
                raise ValueError(f"{name} stands twice")
            found[place] = parse_size(size)
        except ValueError as error:
            raise UsageError(
                f"--max-memory {text:.60}: {error}; device indices with sizes are needed,"
                " such as 0=8GiB,1=20GiB,cpu=16GB"
            ) from None
    return found


def parse_state_cache(text: str) -> int:
    """Bytes of --state-cache, 0 for none. Raises UsageError."""
    return _size_or_none(text, "--state-cache")


def parse_model_cache(text: str) -> int:
    """Bytes of --model-cache, 0 for none but what is in use. Raises UsageError."""
    return _size_or_none(text, "--model-cache")


def _size_or_none(text: str, option: str) -> int:
    try:
        return 0 if text.strip() == "0" else parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}; a size such as 1GiB is needed, or 0") from None
