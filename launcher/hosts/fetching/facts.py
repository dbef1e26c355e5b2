"""A model's files as a host that lacks them knows them: their sizes and hashes, and no name."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.gguf.origin import model_hash
from tplaunch.coordinator.gguf.parts import MAX_PARTS
from tplaunch.launcher.hosts.descriptions import WantedPart


@dataclass(frozen=True)
class ModelFacts:
    """The files of the model that is run, in their order."""

    model_hash: str
    parts: tuple[WantedPart, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"a model of {len(self.parts)} files")
        if self.model_hash != model_hash([part.file_hash for part in self.parts]):
            raise ValueError(f"{self.model_hash!r:.80} is not the hash of these files")
