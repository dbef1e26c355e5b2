"""GGUF headers as they are written, and random changes of them: of keys, types, counts, shapes, texts."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32
MAX_DATA = 1 << 30  # bytes behind a header, which are sparse


@dataclass(frozen=True)
class Value:
    """The value of a key: its type, the type of an array's items, and a value or a list."""

    kind: int
    content: Any
    item_kind: int = 0

    def packed(self) -> bytes:
        if self.kind != ARRAY:
            return _packed(self.kind, self.content)
        items = b"".join(_packed(self.item_kind, item) for item in self.content)
        return struct.pack("<IQ", self.item_kind, len(self.content)) + items


def _packed(kind: int, content: object) -> bytes:
    """As the type wants it; what does not fit is cut to its size."""
    if kind == STRING:
        text = bytes(content) if isinstance(content, bytes) else str(content).encode("utf-8", "replace")
        return struct.pack("<Q", len(text)) + text
    if kind not in SCALARS:
        return bytes(8)
    number = content if isinstance(content, int | float) else 0
    if SCALARS[kind] in "fd":
        try:
            return struct.pack("<" + SCALARS[kind], number)
        except OverflowError:
            return struct.pack("<" + SCALARS[kind], float("inf"))
    size = struct.calcsize(SCALARS[kind])
    whole = int(number) if abs(number) < 2**64 else 0  # NaN and infinities are none
    return int(whole % (1 << 8 * size)).to_bytes(size, "little")


@dataclass(frozen=True)
class Tensor:
    """As a header has it: the columns come first; without an offset it lies behind the one before it."""

    name: bytes
    dimensions: tuple[int, ...]
    type_id: int = 0
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        count = 4
        for length in self.dimensions:
            count *= length
        return count


@dataclass
class Document:
    """A file without its weights, which are all zero."""

    keys: list[tuple[bytes, Value]]
    tensors: list[Tensor]
    counts: tuple[int, int] = (0, 0)  # by how much the header's counts of tensors and keys are wrong
    cuts: list[tuple[float, bytes]] = field(default_factory=list)  # bytes written over a place of the header

    def write(self, path: Path) -> None:
        header = b"GGUF" + struct.pack(
            "<IQQ", 3, (len(self.tensors) + self.counts[0]) % 2**64, (len(self.keys) + self.counts[1]) % 2**64
        )
        header += b"".join(_packed(STRING, key) + struct.pack("<I", value.kind) + value.packed()
                           for key, value in self.keys)  # fmt: skip
        offset = 0
        for tensor in self.tensors:
            here = offset if tensor.offset is None else tensor.offset
            shape = struct.pack(f"<I{len(tensor.dimensions)}Q", len(tensor.dimensions), *tensor.dimensions)
            header += _packed(STRING, tensor.name) + shape + struct.pack("<IQ", tensor.type_id, here % 2**64)
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        data = bytearray(header)
        for place, written in self.cuts:
            start = int(place * len(data))
            data[start : start + len(written)] = written
        with path.open("wb") as file:
            file.write(data)
            file.truncate(len(data) + ALIGNMENT + min(offset, MAX_DATA))


def value_of(content: Any) -> Value:
    """Returns a value of the type that files mostly have."""
    if isinstance(content, list):
        return Value(ARRAY, content, value_of(content[0]).kind if content else 4)
    if isinstance(content, bool):
        return Value(7, content)
    if isinstance(content, int):
        return Value(4 if 0 <= content < 2**32 else 11, content)
    return Value(6 if isinstance(content, float) else STRING, content)


def keys_of(metadata: Mapping[str, Any]) -> list[tuple[bytes, Value]]:
    return [(key.encode(), value_of(content)) for key, content in metadata.items()]


COUNTS = (*range(9), -1, 16, 31, 64, 255, 256, 257, 1000, 2048, 65535, 65536, 10**6, 2**24, 2**30)
LARGE = tuple(
    sign * 2**bits + by
    for sign, bits in ((1, 31), (1, 32), (1, 40), (1, 63), (-1, 31), (-1, 63))
    for by in (0, -1)
)
FLOATS = (0.5, 1.0, -0.0, 1e-12, 1e-30, 1e-45, 1e12, 1e30, 1e300, math.nan, math.inf, -math.inf)
NUMBERS = (*COUNTS, *LARGE, *FLOATS)
TEXTS = (
    *b"|a|llama|gpt2|t5|gemma4|hybriddna|none|yarn|linear|longrope|default|qwen2|llama-bpe|kimi-k2".split(
        b"|"
    ),
    *b"adapter|</s>|<0x41>|<0xZZ>|\xff\xfe|a b| |\0|\n|\xe2\x96\x81|\xf0\x9f\x98\x80|<|im_end|>".split(b"|"),
    *(b"x" * 600, b"x" * 100_000),
)
KINDS = (*SCALARS, STRING, ARRAY, 13, 99)

Change = Callable[[random.Random, Document, Sequence[bytes]], None]


def _any_value(rng: random.Random, like: Value | None) -> Value:
    kind = rng.choice(KINDS) if like is None or rng.random() < 0.3 else like.kind
    if kind == ARRAY:
        item_kind = like.item_kind if like is not None and like.kind == ARRAY else rng.choice(KINDS)
        count = rng.choice((0, 1, 2, 3, 4, 5, 100, 5000))
        item = _content(rng, item_kind)
        long = isinstance(item, bytes) and len(item) > 1000
        return Value(ARRAY, [item] * (min(count, 100) if long else count), item_kind)
    return Value(kind, _content(rng, kind))


def _content(rng: random.Random, kind: int) -> Any:
    return rng.choice(TEXTS) if kind == STRING else rng.choice(NUMBERS)


def change_value(rng: random.Random, document: Document, _names: Sequence[bytes]) -> None:
    place = rng.randrange(len(document.keys))
    key, value = document.keys[place]
    document.keys[place] = (key, _any_value(rng, value))


def set_key(rng: random.Random, document: Document, names: Sequence[bytes]) -> None:
    """A key that is read, whether the file had it or not, gets any value."""
    key = rng.choice(names)
    document.keys = [entry for entry in document.keys if entry[0] != key]
    document.keys.append((key, _any_value(rng, None)))


def change_items(rng: random.Random, document: Document, _names: Sequence[bytes]) -> None:
    places = [
        place for place, (_, value) in enumerate(document.keys) if value.kind == ARRAY and value.content
    ]
    if not places:
        return
    place = rng.choice(places)
    key, value = document.keys[place]
    items = list(value.content)
    for _ in range(rng.choice((1, 1, 5, len(items)))):
        items[rng.randrange(len(items))] = rng.choice((_content(rng, value.item_kind), rng.choice(items)))
    cut = rng.choice((len(items), len(items), len(items) - 1, len(items) // 2, 1, 0))
    document.keys[place] = (key, replace(value, content=items[:cut] or items[:1]))


def move_keys(rng: random.Random, document: Document, names: Sequence[bytes]) -> None:
    """One is left out, stands twice, or has another's name."""
    place = rng.randrange(len(document.keys))
    entry = document.keys[place]
    how = rng.randrange(3)
    if how == 0 and len(document.keys) > 1:
        del document.keys[place]
    elif how == 1:
        document.keys.append((rng.choice((entry[0], entry[0] + b"\xe9")), entry[1]))
    else:
        document.keys[place] = (rng.choice(names), entry[1])


def change_architecture(rng: random.Random, document: Document, names: Sequence[bytes]) -> None:
    """All keys of the architecture become another's."""
    prefixes = sorted({name.split(b".")[0] for name in names} - {b"tokenizer", b"general"})
    new, old = rng.choice(prefixes), rng.choice(prefixes)
    for place, (key, value) in enumerate(document.keys):
        if key == b"general.architecture" and isinstance(value.content, str | bytes):
            old = value.content if isinstance(value.content, bytes) else value.content.encode()
            document.keys[place] = (key, Value(STRING, new))
    document.keys = [(key.replace(old + b".", new + b".", 1), value) for key, value in document.keys]


def change_shape(rng: random.Random, document: Document, _names: Sequence[bytes]) -> None:
    if not document.tensors:
        return
    place = rng.randrange(len(document.tensors))
    shape = list(document.tensors[place].dimensions)
    how = rng.randrange(6)
    if how == 0:
        rng.shuffle(shape)
    elif how == 1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif how == 2 and shape:
        del shape[rng.randrange(len(shape))]
    elif how == 3 and shape:
        shape[rng.randrange(len(shape))] = int(rng.choice((0, 1, 2, 3, 32, 256, 2**31, 2**63)))
    elif how == 4 and shape:
        where = rng.randrange(len(shape))
        shape[where : where + 1] = [2, shape[where] // 2]
    else:
        shape = [rng.choice((1, 4, 32, 256))] * rng.randrange(6)
    document.tensors[place] = replace(document.tensors[place], dimensions=tuple(shape))


def change_tensor(rng: random.Random, document: Document, _names: Sequence[bytes]) -> None:
    """Its type, place or name; or it is left out, stands twice, or is another layer's."""
    if not document.tensors:
        return
    place = rng.randrange(len(document.tensors))
    tensor = document.tensors[place]
    other = rng.choice(document.tensors)
    how = rng.randrange(6)
    if how == 0:
        document.tensors[place] = replace(tensor, type_id=rng.choice((*range(42), 99, 2**32 - 1)))
    elif how == 1:
        document.tensors[place] = replace(tensor, offset=rng.choice((0, 8, 32, 2**20, 2**40, 2**64 - 32)))
    elif how == 2:
        name = rng.choice((other.name, b"", b"x", b"blk.", b"blk.0", b"blk.999999.a", b"\xff", b"a" * 65))
        document.tensors[place] = replace(tensor, name=name)
    elif how == 3:
        del document.tensors[place]
    elif how == 4:
        document.tensors.append(replace(tensor, name=tensor.name.replace(b"weight", b"bias")))
    else:
        document.tensors.append(replace(tensor, name=b"blk.%d." % rng.randrange(4) + tensor.name[6:]))


def damage(rng: random.Random, document: Document, _names: Sequence[bytes]) -> None:
    """Wrong counts, or bytes written over the header."""
    if rng.random() < 0.3:
        document.counts = (rng.choice((0, 1, -1, 10**6)), rng.choice((0, 1, -1, 10**6, 2**62)))
    else:
        written = rng.choice((b"\0", b"\xff" * 4, b"\xff" * 8, rng.randbytes(rng.randrange(1, 9))))
        document.cuts.append((rng.random(), written))


CHANGES: tuple[tuple[Change, int], ...] = (
    *((change_value, 6), (set_key, 6), (change_items, 4), (move_keys, 2), (change_architecture, 1)),
    *((change_shape, 4), (change_tensor, 4), (damage, 1)),
)


def mutated(rng: random.Random, seed: Document, names: Sequence[bytes]) -> Document:
    """The file with one to four changes. names: of keys that are read."""
    document = Document(list(seed.keys), list(seed.tensors))
    changes, weights = zip(*CHANGES, strict=True)
    for change in rng.choices(changes, weights, k=rng.choice((1, 1, 2, 3, 4))):
        change(rng, document, names)
    return document
