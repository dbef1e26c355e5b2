"""A model's files as a host that lacks them knows them: their sizes and hashes, and no name."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.gguf.header import MAX_HEADER_BYTES
from tplaunch.coordinator.gguf.origin import model_hash
from tplaunch.coordinator.gguf.parts import MAX_PARTS

MAX_FILE_BYTES = 1 << 50
HASH_LETTERS = 64  # of sha256 in hexadecimal


@dataclass(frozen=True)
class PartFacts:
    """The facts of one of a model's files; its hash is coordinator.gguf.origin's, of header and size."""

    num_bytes: int
    header_bytes: int
    file_hash: str

    def __post_init__(self) -> None:
        if not 0 < self.header_bytes <= min(self.num_bytes, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {self.header_bytes} bytes in a file of {self.num_bytes}")
        if self.num_bytes > MAX_FILE_BYTES:
            raise ValueError(f"a file of {self.num_bytes} bytes")
        if not is_hash(self.file_hash):
            raise ValueError(f"{self.file_hash!r:.80} is no hash of a file")


@dataclass(frozen=True)
class ModelFacts:
    """The files of the model that is run, in their order."""

    model_hash: str
    parts: tuple[PartFacts, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"a model of {len(self.parts)} files")
        if self.model_hash != model_hash([part.file_hash for part in self.parts]):
            raise ValueError(f"{self.model_hash!r:.80} is not the hash of these files")


def is_hash(text: str) -> bool:
    """Tells whether this is a sha256 in hexadecimal, and so a name that leads to no other folder."""
    return len(text) == HASH_LETTERS and set(text) <= set("0123456789abcdef")
