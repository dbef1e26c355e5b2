"""What a file may ask for: headers of any size that they claim cost little time and memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tplaunch.coordinator.gguf.header import GgufError, read_gguf

MIB = 1 << 20
U8, STRING, ARRAY = 0, 8, 9


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def counts(num_tensors: int, num_keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys)


def array(key: bytes, kind: int, count: int) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", ARRAY, kind, count)


HEADERS = {
    "tensors": (counts(10**6, 0), "has 1000000 tensors; at most 200000 are read"),
    "keys": (counts(0, 10**6), "has 1000000 keys; at most 65536 are read"),
    "list": (counts(0, 1) + array(b"a", U8, 2**24), "lists of 16777216 items; at most 8388608 are read"),
    "texts": (counts(0, 1) + array(b"a", STRING, 2**24), "lists of 16777216 items; at most 8388608"),
    "lists": (
        counts(0, 2) + array(b"a", U8, 4 * MIB) + b"\0" * 4 * MIB + array(b"b", STRING, 5 * MIB),
        "lists of 9437184 items; at most",
    ),
    "key": (counts(0, 1) + struct.pack("<Q", 130 * MIB), "its header has more than 128 MiB, and so much is"),
    "text": (
        counts(0, 1) + struct.pack("<Q1sIQ", 1, b"a", STRING, 130 * MIB),
        "its header has more than 128 MiB, and so much is not read",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.usefixtures("traced")
def test_headers_that_ask_for_much(tmp_path: Path, name: str) -> None:
    """The file has all that it promises: behind the header it is sparse."""
    start, sentence = HEADERS[name]
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(start)
        file.truncate(200 * MIB)
    with pytest.raises(GgufError, match=sentence):
        read_gguf(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 64 * MIB
