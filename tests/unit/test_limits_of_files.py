"""Headers that claim any size cost little time and memory."""

from __future__ import annotations

import dataclasses
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models import config_of, make_spec, tensor_infos, tensor_shapes, write_llama
from tests.unit.test_tokenizer_rules import metadata_with
from tplaunch.coordinator.architectures.blocks import unused_of_blocks
from tplaunch.coordinator.gguf.header import GgufError, read_gguf
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.coordinator.text.tokenizer import TokenizerError, load_tokenizer
from tplaunch.launcher.model import open_model
from tplaunch.worker.buffers.feed_forward import activated_name

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
    "list": (counts(0, 1) + array(b"a", U8, 2**24), "lists of 16777216 items; at most 4194304 are read"),
    "texts": (counts(0, 1) + array(b"a", STRING, 2**24), "lists of 16777216 items; at most 4194304"),
    "lists": (
        counts(0, 2) + array(b"a", U8, 2 * MIB) + b"\0" * 2 * MIB + array(b"b", STRING, 3 * MIB),
        "lists of 5242880 items; at most",
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


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("key", ["scores", "token_type", "suppress_tokens"])
def test_texts_in_the_place_of_numbers(key: str) -> None:
    """NumPy would make an array of as many times the longest: 40 GB of these."""
    texts = ["x" * 1_000_000, *["y"] * 10_000]
    with pytest.raises(TokenizerError, match=f"{key} is not a list of numbers"):
        load_tokenizer({**metadata_with(), f"tokenizer.ggml.{key}": texts})
    assert tracemalloc.get_traced_memory()[1] < 64 * MIB


def test_a_long_text_of_a_token_is_refused() -> None:
    metadata = metadata_with()
    metadata["tokenizer.ggml.tokens"][5] = "x" * 65537
    with pytest.raises(TokenizerError, match=r"token 5 of tokenizer.ggml.tokens has 65537 bytes, more than"):
        load_tokenizer(metadata)


def seconds_to(do: Callable[[], object]) -> float:
    started = time.process_time()
    do()
    return time.process_time() - started


def test_many_tensors_that_are_left_out_take_no_time() -> None:
    """Each of 40,000 was looked for among all the others: more than a minute."""
    spec = make_spec(num_layers=1)
    unused = {f"blk.1.tensor_{number}": (4,) for number in range(40_000)}
    spec = dataclasses.replace(spec, unused_tensors=tuple(unused))
    tensors = tensor_infos({**tensor_shapes(spec), **unused})
    assert seconds_to(lambda: check_tensors(spec, tensors)) < 5


def test_many_blocks_that_predict_further_ahead_take_no_time() -> None:
    """Each name was held against each of these blocks."""
    names = {f"blk.{1 + number % 2047}.tensor_{number}": (4,) for number in range(100_000)}
    tensors = tensor_infos({**tensor_shapes(make_spec(num_layers=1)), **names})
    found: list[str] = []
    assert seconds_to(lambda: found.extend(unused_of_blocks(tensors, 1, 2048, ()))) < 5
    assert sorted(found) == sorted(names)
    infos = dict.fromkeys(("blk.01.a", "blk.1", "blk", "a.b.c", "blk.1.a", "blk.12.a"), tensors[found[0]])
    assert unused_of_blocks(infos, 0, 2, ()) == ("blk.1.a",)


def test_many_layers_take_their_time_once() -> None:
    """Where the lengths of all layers were gathered for each of them it took minutes."""
    spec = make_spec(num_layers=10_000)
    layer = spec.layers[0]
    feed_forward = layer.feed_forward
    assert feed_forward is not None
    assert seconds_to(lambda: [activated_name(spec, feed_forward) for _ in spec.layers]) < 2


def test_a_model_of_very_many_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-65535.gguf"
    count = struct.pack("<Q", 11) + b"split.count" + struct.pack("<II", 4, 65535)
    path.write_bytes(counts(0, 1) + count)
    with pytest.raises(GgufError, match="is one of 65535 parts of a model; at most 999 are read"):
        read_model(path)


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Else a small file could be a model of any size."""
    write_llama(tmp_path / "m.gguf")
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    place = data.index(b"blk.1.attn_k.weight") + len(b"blk.1.attn_k.weight") + 4 + 2 * 8 + 4
    data[place : place + 8] = bytes(8)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(
        GgufError, match=r"is damaged: the tensors 'token_embd.weight' and 'blk.1.attn_k.weight'"
    ):
        open_model(config_of(tmp_path / "m.gguf"))
