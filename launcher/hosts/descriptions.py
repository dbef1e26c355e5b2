"""Devices and files as hosts describe them to each other, checked: what comes in may be a lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.gguf.header import MAX_HEADER_BYTES

MAX_TEXT = 300  # characters of a name
MAX_SENTENCE = 8000  # characters of what is said to people: the longest path there is, and what to do
ELLIPSIS = " ..."
MAX_BYTES = 1 << 50  # of memory, or of a file
HASH_LETTERS = 64  # of sha256 in hexadecimal


def check_text(*texts: str) -> None:
    """Raises ValueError for a text that is too long for a name."""
    _check_length(texts, MAX_TEXT)


def check_sentence(*texts: str) -> None:
    """Raises ValueError for a text that is too long for a sentence."""
    _check_length(texts, MAX_SENTENCE)


def _check_length(texts: Sequence[str], most: int) -> None:
    for text in texts:
        if len(text) > most:
            raise ValueError(f"a text of {len(text)} characters, where {most} are the most")


def cut(sentence: str, most: int = MAX_SENTENCE) -> str:
    """Returns a sentence of so many characters at most, cut between words where it has more."""
    if len(sentence) <= most:
        return sentence
    begin = sentence[: most - len(ELLIPSIS)]
    return (begin.rpartition(" ")[0] or begin) + ELLIPSIS


def check_bytes(*counts: int) -> None:
    """Raises ValueError for a number of bytes that no machine has."""
    for count in counts:
        if not 0 <= count <= MAX_BYTES:
            raise ValueError(f"{count} bytes")


@dataclass(frozen=True)
class HostDevice:
    """A device of a joining host, as launcher.devices.DeviceChoice has it; index is None for NumPy."""

    index: int | None
    name: str
    uuid: str
    on_cpu: bool
    memory_bytes: int
    available_bytes: int
    max_allocation: int
    integrated: bool
    lacks: tuple[str, ...]
    imports_memory: bool
    kind: str
    driver: str
    max_bytes: int = 0  # of --max-memory; 0 for all

    def __post_init__(self) -> None:
        check_text(self.name, self.uuid, self.kind, self.driver, *self.lacks)
        check_bytes(self.memory_bytes, self.available_bytes, self.max_allocation, self.max_bytes)
        if len(self.lacks) > 8 or not 0 <= (self.index or 0) < 1000:
            raise ValueError(f"device {self.index} lacks {len(self.lacks)} kinds of activations")


@dataclass(frozen=True)
class WantedPart:
    """One of a model's files, as every host must have it."""

    header_bytes: int
    num_bytes: int
    file_hash: str  # coordinator.gguf.origin.file_hash
    sample: str = ""  # samples.content_sample; empty where it need not be looked at

    def __post_init__(self) -> None:
        check_text(self.sample)
        check_bytes(self.header_bytes, self.num_bytes)
        if not 0 < self.header_bytes <= min(self.num_bytes, MAX_HEADER_BYTES):
            raise ValueError(f"a file of {self.num_bytes} bytes with {self.header_bytes} before its tensors")
        if not is_hash(self.file_hash):
            raise ValueError(f"{self.file_hash!r:.80} is no hash of a file")


def is_hash(text: str) -> bool:
    """Tells whether this is a sha256 in hexadecimal, and so a name that leads to no other folder."""
    return len(text) == HASH_LETTERS and set(text) <= set("0123456789abcdef")
