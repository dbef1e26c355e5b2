"""Reading GGUF headers: what the gguf package writes, and every kind of damage, met with one sentence."""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from tests.models import (
    FACTORS,
    LocalEngine,
    config_of,
    examples,
    make_spec,
    tensor_infos,
    tensor_shapes,
    write_llama,
)
from tests.steps import Rows, step_of
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf import header as gguf_header
from tplaunch.coordinator.gguf.header import GgufError, GgufFile, read_gguf
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.coordinator.split.plan import PlanError
from tplaunch.coordinator.text.tokenizer import TokenizerError, load_tokenizer
from tplaunch.launcher.model import open_model
from tplaunch.launcher.write_gguf import add_metadata

EXPECTED_ERRORS = (GgufError, ModelError, TokenizerError, PlanError)
SMALL = make_spec(num_layers=1, embedding_length=8, num_heads=2, num_kv_heads=1, key_length=4, value_length=4,
                  feed_forward_length=5, vocabulary_size=9, rope={"dimension": 4})  # fmt: skip
TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab", "\u2581a"]


def add_tokenizer(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
    writer.add_token_types([2, 3, 3, 6, 1, 1, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole model with a tokenizer, as bytes."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    add_metadata(writer, SMALL)
    add_tokenizer(writer)
    for name, shape in tensor_shapes(SMALL).items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    finish(writer)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "model.gguf"


def read_bytes(path: Path, data: bytes) -> GgufFile:
    path.write_bytes(data)
    return read_gguf(path)


def read_all(path: Path, data: bytes) -> None:
    """All that the launcher asks of a file before it starts a worker."""
    file = read_bytes(path, data)
    spec = model_spec(file.metadata, file.tensors)
    check_tensors(spec, file.tensors)
    load_tokenizer(file.metadata)


def test_the_small_model_is_accepted(scratch: Path, small: bytes) -> None:
    read_all(scratch, small)
    spec = model_spec(read_gguf(scratch).metadata, read_gguf(scratch).tensors)
    assert dataclasses.replace(spec, norm=SMALL.norm) == SMALL  # a float32 in the file
    assert spec.norm.epsilon == pytest.approx(SMALL.norm.epsilon)


# Files that the gguf package writes.

VALUES: list[tuple[str, Any, GGUFValueType, GGUFValueType | None]] = [
    ("u8", 255, GGUFValueType.UINT8, None),
    ("i8", -128, GGUFValueType.INT8, None),
    ("u16", 65535, GGUFValueType.UINT16, None),
    ("i16", -32768, GGUFValueType.INT16, None),
    ("u32", 2**32 - 1, GGUFValueType.UINT32, None),
    ("i32", -(2**31), GGUFValueType.INT32, None),
    ("u64", 2**64 - 1, GGUFValueType.UINT64, None),
    ("i64", -(2**63), GGUFValueType.INT64, None),
    ("f32", 0.1, GGUFValueType.FLOAT32, None),
    ("f64", math.pi, GGUFValueType.FLOAT64, None),
    ("inf", math.inf, GGUFValueType.FLOAT32, None),
    ("yes", True, GGUFValueType.BOOL, None),
    ("no", False, GGUFValueType.BOOL, None),
    ("text", "t\u00e4xt \U0001f600", GGUFValueType.STRING, None),
    ("no text", "", GGUFValueType.STRING, None),
    ("texts", ["", "a", "\u2581\u2581"], GGUFValueType.ARRAY, GGUFValueType.STRING),
    ("bytes", [0, 1, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8),
    ("flags", [True, False], GGUFValueType.ARRAY, GGUFValueType.BOOL),
    ("integers", [-1, 2**31 - 1], GGUFValueType.ARRAY, GGUFValueType.INT32),
    ("large", [0, 2**64 - 1], GGUFValueType.ARRAY, GGUFValueType.UINT64),
    ("numbers", [0.5, -1e30], GGUFValueType.ARRAY, GGUFValueType.FLOAT32),
    ("doubles", [1e300], GGUFValueType.ARRAY, GGUFValueType.FLOAT64),
    ("\u00e4 key", 1, GGUFValueType.UINT32, None),
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_reads_what_the_package_reads(tmp_path: Path, version: int, alignment: int) -> None:
    path = tmp_path / "all.gguf"
    writer = GGUFWriter(path, "test")
    writer.add_custom_alignment(alignment)
    for key, value, kind, sub_type in VALUES:
        writer.add_key_value(key, value, kind, sub_type=sub_type)
    random = np.random.default_rng(0)
    for name, shape in {"one": (7,), "two": (3, 64), "three": (2, 3, 32), "four": (2, 1, 3, 32)}.items():
        writer.add_tensor(name, random.random(shape, np.float32))
        writer.add_tensor(name + "-f16", random.random(shape, np.float32).astype(np.float16))
    for weight_type in (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0):
        quantized = gguf.quants.quantize(random.random((3, 64), np.float32), weight_type)
        writer.add_tensor(weight_type.name, quantized, raw_dtype=weight_type)
    finish(writer)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", version)  # the package writes version 3 only; 2 has the same layout
    path.write_bytes(data)

    file, reader = read_gguf(path), GGUFReader(path)
    assert file.num_bytes == len(data)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert file.metadata.keys() == fields.keys()
    for key, field in fields.items():
        assert file.metadata[key] == field.contents(), key
        assert type(file.metadata[key]) is type(field.contents()), key
    for key, value, _, _ in VALUES:
        assert file.metadata[key] == (np.float32(0.1).item() if key == "f32" else pytest.approx(value))
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        assert info.type == tensor.tensor_type.name
        assert info.shape == tuple(tensor.shape.tolist()[::-1])
        assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert info.offset % alignment == 0
        raw = np.frombuffer(data, np.uint8, info.nbytes, info.offset)
        np.testing.assert_array_equal(raw, np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1))


def test_scalars_and_empty_tensors_are_read(scratch: Path) -> None:
    """A scalar is a vector of one; what has no elements lies anywhere."""
    tensors = [tensor(b"one", ()), tensor(b"none", (4, 0), offset=2**40), tensor(b"no row", (0, 3))]
    found = read_bytes(scratch, header(tensors=tensors)).tensors
    assert [(info.shape, info.nbytes) for info in found.values()] == [((1,), 4), ((0, 4), 0), ((3, 0), 0)]


def test_invalid_utf8_survives_as_surrogates(scratch: Path) -> None:
    data = header([(b"a\xe9", STRING, text(b"\xff\xfe")), (b"b", ARRAY, array(STRING, [text(b"x\xc3")]))])
    assert read_bytes(scratch, data).metadata == {"a\udce9": "\udcff\udcfe", "b": ["x\udcc3"]}


@pytest.mark.parametrize("moment", ["_read_metadata", "_read_tensors", "_check_extent"])
def test_a_file_that_becomes_shorter_while_it_is_read(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """An error, not the end of the process by SIGBUS, as with a map of the file."""
    goes_on = getattr(gguf_header, moment)

    def cut(*arguments: Any) -> Any:
        os.truncate(scratch, 24)
        return goes_on(*arguments)

    monkeypatch.setattr(gguf_header, moment, cut)
    names = [text(b"x" * 1000)] * 100  # more than is read ahead
    data = header([(b"a", ARRAY, array(STRING, names)), (b"b", ARRAY, array(STRING, names))])
    with pytest.raises(
        GgufError, match=f"it had {len(data)} bytes when it was opened, and has become shorter"
    ):
        read_bytes(scratch, data)


def test_the_hash_tells_headers_and_sizes_apart(scratch: Path, small: bytes) -> None:
    first = read_bytes(scratch, small)
    assert read_bytes(scratch, small).file_hash == first.file_hash
    assert read_bytes(scratch, small + b"\0").file_hash != first.file_hash
    changed = bytearray(small)
    changed[small.index(b"<unk>")] += 1
    assert read_bytes(scratch, bytes(changed)).file_hash != first.file_hash
    changed = bytearray(small)
    changed[-1] ^= 1  # a weight: not part of it, so that telling is quick
    assert read_bytes(scratch, bytes(changed)).file_hash == first.file_hash


# Files that are none.


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="absent: no such file"):
        read_gguf(tmp_path / "absent")
    with pytest.raises(GgufError, match="is not a file"):
        read_gguf(tmp_path)
    with pytest.raises(GgufError, match="can't be read: File name too long"):
        read_gguf(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(GgufError):
        read_gguf(tmp_path / "loop")
    with pytest.raises(GgufError):
        read_gguf(tmp_path / "nul\0byte")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(GgufError, match="is not a file"):
        read_gguf(tmp_path / "fifo")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"hello\n", b"GGUF\3\0\0\0" + b"\0" * 15])
def test_short_files(scratch: Path, content: bytes) -> None:
    with pytest.raises(GgufError, match=f"is not a GGUF file: it has {len(content)} bytes"):
        read_bytes(scratch, content)


def test_text_files(scratch: Path) -> None:
    with pytest.raises(GgufError, match="is not a GGUF file: it starts with b'# A '"):
        read_bytes(scratch, b"# A text file\nof some length, but of no model\n")


@pytest.mark.parametrize("version", [0, 1, 4, 2**31])
def test_other_versions(scratch: Path, small: bytes, version: int) -> None:
    with pytest.raises(GgufError, match=f"is of GGUF version {version}; supported: 2, 3"):
        read_bytes(scratch, small[:4] + struct.pack("<I", version) + small[8:])


def test_big_endian_files(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("t", np.ones(8, np.float32))
    finish(writer)
    with pytest.raises(GgufError, match="is a big-endian GGUF file; only little-endian ones are supported"):
        read_gguf(tmp_path / "big.gguf")


# Headers by hand: what the package would not write.

STRING, ARRAY, U32, U64 = 8, 9, 4, 10


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def array(kind: int, items: list[bytes], count: int | None = None) -> bytes:
    return struct.pack("<IQ", kind, len(items) if count is None else count) + b"".join(items)


def tensor(name: bytes, shape: tuple[int, ...], type_id: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", type_id, offset)


def header(
    fields: list[tuple[bytes, int, bytes]] | None = None,
    tensors: list[bytes] | None = None,
    num_fields: int | None = None,
    num_tensors: int | None = None,
) -> bytes:
    fields, tensors = fields or [], tensors or []
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(fields) if num_fields is None else num_fields,
    )
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in fields)
    data = b"GGUF" + struct.pack("<IQQ", 3, *counts) + body + b"".join(tensors)
    return data + b"\0" * (-len(data) % 32) + b"\0" * 1024


WILD = 2**63 + 5
HEADERS: dict[str, tuple[bytes, str]] = {
    "tensors": (header(num_tensors=WILD), f"a count of {WILD} at byte 8 is more than the file can hold"),
    "keys": (header(num_fields=2**64 - 1), "a count of 18446744073709551615 at byte 16 is more than"),
    "plausible keys": (header(num_fields=10**6), "a count of 1000000 at byte 16"),
    "key length": (header([(b"key", U32, b"\0" * 4)]).replace(text(b"key"), struct.pack("<Q", WILD)), "a c"),
    "text length": (header([(b"a", STRING, struct.pack("<Q", 2**40))]), f"a count of {2**40}"),
    "array length": (header([(b"a", ARRAY, array(U64, [], WILD))]), f"a count of {WILD}"),
    "array bytes": (header([(b"a", ARRAY, array(U64, [], 1000))]), "values of 8000 bytes"),
    "array of texts": (header([(b"a", ARRAY, array(STRING, [], 10**9))]), "a count of 1000000000"),
    "nested arrays": (header([(b"a", ARRAY, array(ARRAY, [array(U32, [])]))]), "an array of arrays at byte"),
    "unknown type": (header([(b"a", 13, b"\0" * 8)]), "a value of the unknown type 13 at byte"),
    "unknown item type": (header([(b"a", ARRAY, array(77, []))]), "a value of the unknown type 77"),
    "key twice": (header([(b"a", U32, b"\0" * 4)] * 2), "the key 'a' stands twice"),
    "tensor twice": (header(tensors=[tensor(b"t", (4,))] * 2), "the tensor 't' stands twice"),
    "many dimensions": (header(tensors=[tensor(b"t", (1,) * 5)]), "the tensor 't' has 5 dimensions"),
    "name of bytes": (header(tensors=[tensor(b"caf\xe9", (4,))]), r"is called 'caf\\udce9': a name is"),
    "name of two lines": (header(tensors=[tensor(b"a\nb", (4,))]), r"is called 'a\\nb': a name is"),
    "no name": (header(tensors=[tensor(b"", (4,))]), "a tensor is called '': a name is printable"),
    "huge tensor": (header(tensors=[tensor(b"t", (2**63, 2**63, 2**63))]), "is truncated: the tensor 't' en"),
    "far tensor": (header(tensors=[tensor(b"t", (4,), 0, 2**64 - 32)]), "is truncated: the tensor 't' ends"),
    "crooked tensor": (header(tensors=[tensor(b"t", (4,), 0, 8)]), "starts at 8, which is no multiple of 32"),
    "half a block": (header(tensors=[tensor(b"t", (48,), 8)]), r"columns of a Q8_0 row \(48\) is not a mult"),
    "Q8_K": (
        header(tensors=[tensor(b"blk.0.ffn_up.weight", (256,), 15)]),
        "the tensor 'blk.0.ffn_up.weight' is of type Q8_K, which is not supported;"
        f" supported: {', '.join(sorted(WEIGHT_TYPES))}",
    ),
    "no type": (header(tensors=[tensor(b"t", (4,), 9999)]), "'t' is of type number 9999, which is not"),
    **{
        f"alignment {value}": (
            header([(b"general.alignment", U32, struct.pack("<I", value))]), f"general.alignment is {value}"
        )
        for value in (0, 4, 33, 2**21)
    },
    "alignment text": (header([(b"general.alignment", STRING, text(b"32"))]), "general.alignment is '32'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_inconsistent_headers(scratch: Path, name: str) -> None:
    data, sentence = HEADERS[name]
    scratch.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match=sentence):
            read_gguf(scratch)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_messages_stay_short(scratch: Path) -> None:
    long = b"x" * 100_000
    for data in (
        header([(long, U32, b"\0" * 4)] * 2),
        header(tensors=[tensor(long, (4,), 99)]),
        header([(b"general.alignment", STRING, text(long))]),
    ):
        with pytest.raises(GgufError) as caught:
            read_bytes(scratch, data)
        assert len(str(caught.value)) < 500


# Damage at random places.


def test_every_truncation_is_noticed(scratch: Path, small: bytes) -> None:
    file = read_bytes(scratch, small)
    end = max(tensor.offset + tensor.nbytes for tensor in file.tensors.values())
    inside_tensors = range(file.header_bytes, end, 97)
    for length in (*range(file.header_bytes), *inside_tensors, end - 1):
        os.truncate(scratch, length)
        with pytest.raises(GgufError):
            read_gguf(scratch)
        scratch.write_bytes(small)
    os.truncate(scratch, end)
    assert read_gguf(scratch).tensors == file.tensors


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[float, bytes]]:
    """Where (a part of the header), and what is written over it."""
    interesting = st.sampled_from([b"\0", b"\xff", b"\x80", b"\1", b"\xff" * 8, b"\0" * 8, b"\xff" * 4])
    new = interesting | st.binary(min_size=1, max_size=9)
    return draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), new), min_size=1, max_size=4))


@given(damages())
@examples(800)
def test_damaged_headers_are_read_or_refused(
    scratch: Path, small: bytes, damage: list[tuple[float, bytes]]
) -> None:
    data = bytearray(small)
    header_bytes = len(small) - 4 * sum(math.prod(shape) for shape in tensor_shapes(SMALL).values())
    for place, new in damage:
        start = int(place * header_bytes)
        data[start : start + len(new)] = new
    try:
        read_all(scratch, bytes(data))
    except EXPECTED_ERRORS as error:
        assert 0 < len(str(error)) < 1000


@given(st.binary(max_size=600), st.sampled_from([0, 4, 8, 16, 24]))
@examples(300)
def test_random_bytes_are_refused(scratch: Path, small: bytes, data: bytes, kept: int) -> None:
    """After a true start of some length."""
    with pytest.raises(EXPECTED_ERRORS):
        read_all(scratch, small[:kept] + data)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 2, 7, 2**31, 2**32, "llama", "none", "linear", "ntk", 0.0, 1e-320, 1e308]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def metadata(scratch: Path, small: bytes) -> Iterator[dict[str, Any]]:
    yield read_bytes(scratch, small).metadata


OPTIONAL_KEYS = (
    "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear", "llama.expert_count",
    "llama.attention.sliding_window", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.precompiled_charsmap", "general.name",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.remove_extra_whitespaces",
)  # fmt: skip


@given(st.data())
@examples(600)
def test_any_metadata_is_accepted_or_refused(metadata: dict[str, Any], data: st.DataObject) -> None:
    keys = st.sampled_from([*metadata, *OPTIONAL_KEYS])
    changed = {**metadata, **data.draw(st.dictionaries(keys, VALUE, min_size=1, max_size=3))}
    changed = {key: value for key, value in changed.items() if value is not None}
    tensors = tensor_infos(tensor_shapes(SMALL))
    for read in (
        lambda: check_tensors(model_spec(changed, tensors), tensors),
        lambda: load_tokenizer(changed),
    ):
        try:
            read()
        except EXPECTED_ERRORS as error:
            assert 0 < len(str(error)) < 1000


# What model_spec says.


def test_other_architectures(metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"the architecture 'clip' is not supported; supported: .*llama"):
        model_spec({**metadata, "general.architecture": "clip"}, {})
    with pytest.raises(ModelError, match=r"the architecture None is not supported; supported: .*llama"):
        model_spec({}, {})
    with pytest.raises(ModelError, match=r"the architecture \['llama'\] is not supported; "):
        model_spec({**metadata, "general.architecture": ["llama"]}, {})


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("block_count", None, "the model's metadata has no llama.block_count"),
        ("embedding_length", None, "the model's metadata has no llama.embedding_length"),
        ("embedding_length", 0, "embedding_length is 0; a number from 1 to 2147483647 is needed"),
        ("embedding_length", 10, r"the model's embedding_length \(10\) is not a multiple of 4"),
        ("block_count", True, "the model's llama.block_count is True; one integer is needed"),
        ("block_count", 1.5, "llama.block_count is 1.5; one integer is needed"),
        ("attention.head_count", 0, "llama.attention.head_count is 0; a number from 1 to 2147483647"),
        ("attention.head_count", 3, "attention heads .3. is not a multiple of 2"),
        ("attention.head_count_kv", [1, 2], r"head_count_kv is 'of 2 numbers'; one for each of 1 layers"),
        ("attention.head_count_kv", 0, "llama.attention.head_count_kv is 0; a number from 1 to 2147483647"),
        ("attention.key_length", 6, "key_length is 6; it must be a multiple of 4, at most 256"),
        ("attention.value_length", 260, "value_length is 260; it must be a multiple of 4, at most 256"),
        ("rope.dimension_count", 3, "the rope dimension is 3; it must be a positive even number"),
        ("rope.dimension_count", 6, "the rope dimension is 6, more than the 4 elements of a key"),
        ("rope.dimension_count", 2**30, "the rope dimension is 1073741824; no key has more than 576"),
        ("rope.freq_base", math.nan, "rope.freq_base is nan; a positive number is needed"),
        ("rope.freq_base", math.inf, "llama.rope.freq_base is inf; a number between 1 and 1e.12 is needed"),
        (
            "rope.scaling.type",
            "ntk",
            "rope scaling of type 'ntk' is not supported; supported: none, linear, yarn, longrope",
        ),
        ("rope.scaling.type", 3, "rope.scaling.type is 3; a string is needed"),
        ("attention.layer_norm_rms_epsilon", 0.0, "epsilon is 0.0; a positive number is needed"),
        ("expert_count", 8, "the model has 8 experts, but no layer has a router, ffn_gate_inp.weight"),
    ],
)
def test_models_that_cant_be_run(metadata: dict[str, Any], key: str, value: Any, sentence: str) -> None:
    changed = {**metadata, "llama.attention.head_count_kv": 2, f"llama.{key}": value}
    with pytest.raises(ModelError, match=sentence):
        model_spec(changed, tensor_infos(tensor_shapes(SMALL)))


def test_per_layer_arrays_that_agree_are_one_number(metadata: dict[str, Any]) -> None:
    changed = {**metadata, "llama.feed_forward_length": [5]}
    assert model_spec(changed, tensor_infos(tensor_shapes(SMALL))).feed_forwards[0].length == 5


def test_linear_scaling_is_read_from_either_key(metadata: dict[str, Any]) -> None:
    tensors = tensor_infos(tensor_shapes(SMALL))
    old = {**metadata, "llama.rope.scale_linear": 4.0}
    new = {**metadata, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert [model_spec(keys, tensors).ropes[0].scale for keys in (old, new)] == [0.25, 0.25]


# Behind a good header anything may lie.

MATRICES = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "output",
    "token_embd",
)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("weights", [[1], [1, 2, 1]], ids=str)
def test_random_weights_load_and_run(tmp_path: Path, kind: str, weights: list[float]) -> None:
    path = tmp_path / "model.gguf"
    types = {f"{name}.weight": kind for name in MATRICES}
    write_llama(path, make_spec(), types, biases=True)
    file = read_gguf(path)
    random = np.random.default_rng(11)
    data = bytearray(path.read_bytes())
    for info in file.tensors.values():
        data[info.offset : info.offset + info.nbytes] = random.bytes(info.nbytes)
    path.write_bytes(data)
    step = step_of(1, [Rows([1, 2, 3])], [2], {0: [0]})
    assert LocalEngine(path, weights).logits(step).shape == (1, 48)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_rope_factors_must_be_positive(tmp_path: Path, factor: float) -> None:
    path = tmp_path / "model.gguf"
    write_llama(path, make_spec(rope=FACTORS))
    data = bytearray(path.read_bytes())
    data[(offset := read_gguf(path).tensors["rope_freqs.weight"].offset) : offset + 4] = struct.pack(
        "<f", factor
    )
    path.write_bytes(data)
    for uses in (LocalEngine, lambda path: open_model(config_of(path))):
        with pytest.raises(ModelError, match=r"rope_freqs\.weight holds .*; positive numbers are needed"):
            uses(path)
