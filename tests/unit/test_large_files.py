"""A file of 100 GB, nearly all of it holes: who reads how much of it; and media that can't be written to."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import tplaunch.worker.weights.model_file
from tests.models import LIMITS, LocalEngine, make_spec, open_model, write_llama
from tplaunch.coordinator.architectures.shapes import Shape, shape_tensors
from tplaunch.coordinator.gguf.parts import GgufModel
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare, make_plan
from tplaunch.launcher.write_gguf import add_metadata
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.buffers.table import weight_buffers
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.weights.loading import load_stacks
from tplaunch.worker.weights.model_file import ModelFile

SPEC = make_spec(embedding_length=4096, num_heads=32, num_kv_heads=8, key_length=128, value_length=128,
                 feed_forward_length=2**21, vocabulary_size=32000, rope={"dimension": 128})  # fmt: skip
PAGE = mmap.PAGESIZE


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    write_holes(path, SPEC, "F16")
    yield path
    path.unlink()


def write_holes(path: Path, spec: ModelSpec, kind: str) -> None:
    """A model's header, and a hole as large as its tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, spec)
    dtypes: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
    tensors = shape_tensors(Shape(spec), kind).values()
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, dtypes[tensor.type], tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + sum(tensor.nbytes + 64 for tensor in tensors))


def resident(path: Path) -> npt.NDArray[np.bool_]:
    """Which pages of a file are in memory: mincore(2)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        view = np.frombuffer(data, np.uint8)
        states = np.zeros(-(-view.size // PAGE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        address, length = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.size)
        code = libc.mincore(address, length, ctypes.c_void_p(states.ctypes.data))
        assert code == 0, os.strerror(ctypes.get_errno())
        del view
    return (states & 1).astype(bool)


def forget(path: Path) -> None:
    """Takes a file's pages out of memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_the_launcher_reads_the_header_only(large: Path) -> None:
    forget(large)
    before = int(resident(large).sum())
    file, spec = open_model(large)
    assert large.stat().st_size > 100e9 and large.stat().st_blocks * 512 < 1 << 20
    assert spec.feed_forwards[0].length == SPEC.feed_forwards[0].length and len(file.tensors) == 21
    read_ahead = 32 << 20  # more than any kernel does
    assert (int(resident(large).sum()) - before) * PAGE < read_ahead


def own_pages(file: GgufModel, share: RankShare, num_pages: int) -> npt.NDArray[np.bool_]:
    """The pages that hold some of what a rank without heads loads, and the header."""
    pages = np.zeros(num_pages, bool)

    def mark(start: int, stop: int) -> None:
        pages[start // PAGE : -(-stop // PAGE)] = True

    columns, tokens = share.layers[0].feed_forward, share.vocabulary
    mark(0, file.origin.parts[0].header_bytes)
    for name, tensor in file.tensors.items():
        row_bytes = WEIGHT_TYPES[tensor.type].row_bytes(tensor.columns)
        if len(tensor.shape) == 1:
            mark(tensor.offset, tensor.offset + tensor.nbytes)
        elif "ffn_down" in name:
            for row in range(tensor.shape[0]):
                start = tensor.offset + row * row_bytes
                mark(start + columns.start * 2, start + columns.stop * 2)
        elif "ffn" in name:
            mark(tensor.offset + columns.start * row_bytes, tensor.offset + columns.stop * row_bytes)
        elif name == "output.weight":
            mark(tensor.offset + tokens.start * row_bytes, tensor.offset + tokens.stop * row_bytes)
    return pages


def test_a_rank_reads_its_share_and_nothing_else(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the page: where the kernel is told not to read ahead of what is asked for."""
    maps = tplaunch.worker.weights.model_file.mapped

    def mapped(path: Path) -> mmap.mmap:
        data = maps(path)
        data.madvise(mmap.MADV_RANDOM)
        return data

    monkeypatch.setattr("tplaunch.worker.weights.model_file.mapped", mapped)
    file, spec = open_model(large)
    share = make_plan(spec, [1, 1, 1, 8e-4, 1, 1, 1, 1])[3]
    assert (
        len(share.layers[0].feed_forward) == 256 and len(share.vocabulary) and not len(share.layers[0].heads)
    )
    shards = rank_shards(spec, share, file.tensors)
    device = NumpyDevice(LIMITS)
    device.create_buffers(weight_buffers(shards))
    forget(large)
    weights = ModelFile(file.origin.parts)
    assert weights.model_hash == file.origin.model_hash
    loaded = sum(load_stacks(device, weights, stack_shards(shards), file.tensors))
    found = resident(large)
    own = own_pages(file, share, found.size)
    assert not np.any(found & ~own)
    assert own.sum() < found.size / 100
    assert loaded >= 2 * 3 * 256 * 4096 * 2  # layers, matrices, columns, width, bytes
    assert np.all(found[own])


# A medium that can't be written to.


class Opened:
    """An audit hook: what this process opens, and how. It stays for ever, but hears only when it is on."""

    def __init__(self) -> None:
        self.flags: dict[str, list[int]] = {}
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and event == "open":
            self.flags.setdefault(str(arguments[0]), []).append(arguments[2])


def test_models_are_opened_for_reading_and_nothing_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    path = folder / "m.gguf"
    write_llama(path)
    path.chmod(0o444)
    folder.chmod(0o555)
    opened = Opened()
    opened.is_on = True
    try:
        LocalEngine(path, [1, 1])
    finally:
        opened.is_on = False
        folder.chmod(0o755)
    found = {name: flags for name, flags in opened.flags.items() if str(folder) in name}
    assert list(found) == [str(path)] and len(found[str(path)]) == 3  # the launcher and two ranks
    for flags in found[str(path)]:
        assert flags & os.O_ACCMODE == os.O_RDONLY and not flags & (os.O_CREAT | os.O_TRUNC)
