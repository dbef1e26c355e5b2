"""Answers with the bytes of the model's own files, and of no other. It knows requests, and no socket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tplaunch.coordinator.gguf.origin import FilePart, file_hash, model_hash
from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.descriptions import WantedPart
from tplaunch.launcher.hosts.fetching.blocks import Strips
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.messages import DIGEST_BYTES, AskBytes, BytesFollow, Refused, Reply
from tplaunch.launcher.hosts.samples import content_sample
from tplaunch.worker.folders import open_regular

Answer = tuple[Reply, Frame]  # the frame is empty but for BytesFollow
NOTHING: Frame = b""


class ModelServer:
    """The files of the model that is run, opened once. Several threads may ask at once.

    Use it as a context, or close it. Raises OSError where a file can't be opened any more.
    """

    def __init__(self, parts: Sequence[FilePart]) -> None:
        self._files = [open_regular(Path(part.path)) for part in parts]
        self._names = [Path(part.path).name for part in parts]
        self._found = [os.fstat(file.fileno()) for file in self._files]
        facts = []
        for file, part, found in zip(self._files, parts, self._found, strict=True):
            header = os.pread(file.fileno(), part.header_bytes, 0)
            size = found.st_size
            sample = content_sample(file.fileno(), size)
            facts.append(WantedPart(part.header_bytes, size, file_hash(header, size), sample))
        self.facts = ModelFacts(model_hash([part.file_hash for part in facts]), tuple(facts))

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def answer(self, ask: AskBytes) -> Answer:
        """Returns the reply to a request; what can't be had is Refused."""
        try:
            data = self._read(ask.strips)
        except (OSError, ValueError) as error:
            return Refused(str(error)), NOTHING
        return BytesFollow(digest(data)), data

    def _read(self, strips: Strips) -> bytes:
        if strips.part >= len(self._files) or strips.stop > self._found[strips.part].st_size:
            raise ValueError(f"{strips} lie in none of the {len(self._files)} files")
        data = read_strips(self._files[strips.part].fileno(), strips)
        now, then = os.fstat(self._files[strips.part].fileno()), self._found[strips.part]
        changed = (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)
        if changed or len(data) != strips.num_bytes:
            raise ValueError(f"{self._names[strips.part]} changed while it was in use")
        return data


def read_strips(descriptor: int, strips: Strips) -> bytes:
    """Returns the bytes of the strips one after another; fewer where the file ends. Raises OSError."""
    return b"".join(os.pread(descriptor, strips.width, offset) for offset in strips.offsets)


def digest(data: Frame) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
