"""A manifest says with what a number was measured, so that it can be measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Manifest:
    """A line of facts about a run."""

    command: str
    tplaunch: str  # the version
    model: str  # the name of its file, or what made it up
    sha256: tuple[str, ...]  # of each of the model's files, in their order
    devices: tuple[str, ...]  # of each rank
    split: tuple[float, ...]  # the ranks' shares
    options: Mapping[str, Any]  # that change what is computed, and those that were given
    seed: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """The manifest as one line for people and programs."""
        return f"manifest: {json.dumps(self.as_dict(), ensure_ascii=False)}"


def sha256_of(paths: Sequence[str | Path]) -> Future[tuple[str, ...]]:
    """Hashes whole files in a thread of its own, while others read them, too."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="tplaunch hash")
    future = pool.submit(lambda: tuple(map(_sha256, paths)))
    pool.shutdown(wait=False)
    return future


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
