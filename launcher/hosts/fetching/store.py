"""A model in the cache folder: files of its sizes, with holes where nothing was fetched, and a journal.

It knows files, and no socket. One process at a time may write; others wait for its lock.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tplaunch.coordinator.gguf.header import GgufError, read_gguf
from tplaunch.coordinator.gguf.origin import TensorInfo, file_hash
from tplaunch.launcher.hosts.fetching.blocks import Block, Grid, Mask, Strips, covering_blocks
from tplaunch.launcher.hosts.fetching.cache import USUAL_BYTES, make_room, model_in_use
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.journal import (
    MAX_JOURNAL_BYTES,
    Kept,
    Seal,
    beginning,
    read_journal,
    record,
)
from tplaunch.launcher.hosts.fetching.server import digest, read_strips
from tplaunch.worker.folders import is_own_folder, make_private

SPARE_BYTES = 256 << 20  # of the disk, which stay free
SAVE_BYTES = 16 << 20  # after so many the disk is made to take them
ELSEWHERE = "name another folder by XDG_CACHE_HOME, or a copy of the model by --model-dir"
VERIFIERS = 4  # threads
FLAGS = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class StoreError(RuntimeError):
    """The model can't be kept here; the message says why in one sentence."""


class Store:
    """The files of one model below a cache folder. Use it as a context: it holds the lock meanwhile.

    Raises StoreError where the folder can't be used, and BlockingIOError while another process holds it.
    """

    def __init__(self, cache: Path, facts: ModelFacts, most_bytes: int = USUAL_BYTES) -> None:
        """most_bytes: of all models in the cache, as far as nobody uses them."""
        self._most_bytes, self._use = most_bytes, ExitStack()
        self.folder, self.facts = cache / facts.model_hash, facts
        self.paths = [self.folder / f"part-{number + 1:05}.gguf" for number in range(len(facts.parts))]
        self.tensors: tuple[TensorInfo, ...] = ()  # once the headers are there
        self.grids: list[Grid] = []
        self._masks: dict[int, Mask] = {}
        self._journal_lock = threading.Lock()
        self._descriptors: list[int] = []  # of the journal, and of the files
        self._is_changed = False
        self._unsaved = 0  # bytes, about, that the system may not have given to the disk

    def __enter__(self) -> Store:
        try:
            make_private(self.folder)
            if not is_own_folder(self.folder):
                raise StoreError(f"{self.folder} is not a folder of this user: remove it")
            self._use.enter_context(model_in_use(self.folder))
            self._open()
        except BlockingIOError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self.folder} can't be used for models: {error.strerror}; {ELSEWHERE}"
            ) from error
        return self

    def _open(self) -> None:
        try:
            self._descriptors.append(_open_own(self.folder / "journal"))
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._descriptors += map(_open_own, self.paths)
        except OSError:
            self._close()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._is_changed and kind is None:
                self._seal()
        finally:
            self._close()

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._use.close()

    @property
    def _journal(self) -> int:
        return self._descriptors[0]

    @property
    def _files(self) -> Sequence[int]:
        return self._descriptors[1:]

    @property
    def has_headers(self) -> bool:
        """Tells whether the files have their sizes and the right headers."""
        for descriptor, part in zip(self._files, self.facts.parts, strict=True):
            if os.fstat(descriptor).st_size != part.num_bytes:
                return False
            header = os.pread(descriptor, part.header_bytes, 0)
            if file_hash(header, part.num_bytes) != part.file_hash:
                return False
        return True

    def begin(self, headers: Sequence[bytes]) -> None:
        """Makes the files anew, with these headers and nothing else. Raises StoreError for wrong ones."""
        for part, header in zip(self.facts.parts, headers, strict=True):
            if file_hash(header, part.num_bytes) != part.file_hash:
                raise StoreError("the head sent another header than the model's")
        try:
            self._start_journal(())
            for descriptor, part, header in zip(self._files, self.facts.parts, headers, strict=True):
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, part.num_bytes)
                _write(descriptor, header, 0)
        except OSError as error:
            raise self._failed(error) from error

    def open_tensors(self) -> None:
        """Reads the headers, and finds out which blocks are there. Raises StoreError."""
        try:
            files = [read_gguf(path) for path in self.paths]
        except GgufError as error:
            raise StoreError(f"the model that the head sent can't be read: {error}") from error
        self.tensors = tuple(
            dataclasses.replace(tensor, part=part)
            for part, file in enumerate(files)
            for tensor in file.tensors.values()
        )
        self.grids = [Grid.of(tensor) for tensor in self.tensors]
        size = min(os.fstat(self._journal).st_size, MAX_JOURNAL_BYTES)
        data = os.pread(self._journal, size, 0)
        content = read_journal(data, self.facts.model_hash)
        kept = [each for each in content.kept if self._is_possible(each.block)]
        seals = tuple(Seal.of(part, each) for part, each in enumerate(self._files))
        if content.seals != seals:
            kept = self._verified(kept)
            self._start_journal(kept)
        for each in kept:
            self._mark(each.block)

    def missing(self, wanted: Iterable[Block]) -> list[Block]:
        """Returns the blocks of which nothing is here yet, out of those that cover what is wanted."""
        asked: dict[int, Mask] = {}
        for block in wanted:
            grid = self.grids[block.tensor]
            grid.mark(asked.setdefault(block.tensor, grid.no_cells()), block)
        for tensor in asked.keys() & self._masks.keys():
            asked[tensor] &= ~self._masks[tensor]
        return covering_blocks(self.grids, asked)

    def strips(self, block: Block) -> Strips:
        return self.grids[block.tensor].strips(block)

    def check_space(self, blocks: Iterable[Block]) -> None:
        """Makes room for blocks that are to come. Raises StoreError where the disk has none."""
        needed = sum(self.strips(block).disk_bytes for block in blocks)
        if needed:
            make_room(self.folder.parent, self.folder, needed, self._most_bytes, SPARE_BYTES)
        free = shutil.disk_usage(self.folder).free
        if needed and needed + SPARE_BYTES > free:
            raise StoreError(
                f"it takes up to {needed / 1e6:,.0f} MB, but of the disk of {self.folder.parent} only"
                f" {free / 1e6:,.0f} MB are free: make room, or {ELSEWHERE}"
            )

    def write(self, block: Block, data: bytes | memoryview, found: bytes) -> None:
        """Keeps a block, whose digest was checked; several threads may. Raises StoreError."""
        strips = self.strips(block)
        assert len(data) == strips.num_bytes, f"{len(data)} bytes for {strips}"
        view = memoryview(data)
        try:
            for number, offset in enumerate(strips.offsets):
                start = number * strips.width
                _write(self._files[strips.part], view[start : start + strips.width], offset)
            with self._journal_lock:
                self._is_changed = True
                _append(self._journal, record(Kept(block, found)))
                self._mark(block)
                self._unsaved += len(data)
                saves = self._unsaved >= SAVE_BYTES
                if saves:
                    self._unsaved = 0
            if saves:  # while other streams go on: at the end little is left to be waited for
                os.fdatasync(self._files[strips.part])
        except OSError as error:
            raise self._failed(error) from error

    def _mark(self, block: Block) -> None:
        grid = self.grids[block.tensor]
        grid.mark_whole(self._masks.setdefault(block.tensor, grid.no_cells()), block)

    def _is_possible(self, block: Block) -> bool:
        return block.tensor < len(self.grids) and self.grids[block.tensor].holds(block)

    def _verified(self, kept: Sequence[Kept]) -> list[Kept]:
        """Reads blocks again; returns those that are as they were when they came."""

        def is_whole(each: Kept) -> bool:
            strips = self.strips(each.block)
            return digest(read_strips(self._files[strips.part], strips)) == each.digest

        with ThreadPoolExecutor(VERIFIERS, "verify") as pool:
            return [each for each, whole in zip(kept, pool.map(is_whole, kept), strict=True) if whole]

    def _start_journal(self, kept: Sequence[Kept]) -> None:
        os.ftruncate(self._journal, 0)
        _append(self._journal, beginning(self.facts.model_hash) + b"".join(map(record, kept)))
        self._is_changed = True

    def _seal(self) -> None:
        for part, descriptor in enumerate(self._files):
            os.fsync(descriptor)
            _append(self._journal, record(Seal.of(part, descriptor)))
        os.fsync(self._journal)

    def _failed(self, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "its disk is full" if full else error.strerror
        return StoreError(f"the model can't be written to {self.folder}: {why}")


def _open_own(path: Path) -> int:
    """Opens a file of this user's to read and write, which only the user may."""
    descriptor = os.open(path, os.O_RDWR | FLAGS, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EPERM, f"{path.name} is no file of this user alone")
    os.fchmod(descriptor, 0o600)
    return descriptor


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _append(descriptor: int, data: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_END)
    while data:
        data = data[os.write(descriptor, data) :]
