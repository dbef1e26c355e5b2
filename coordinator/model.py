"""What a model is: its dimensions and features as frozen data, read from GGUF metadata.

Knows the architectures that are supported; knows no file format, no device and no split.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ModelError(ValueError):
    """The model can't be run; the message says why in one sentence."""


@dataclass(frozen=True)
class WeightType:
    """How one GGML tensor type lies in a file: blocks of `block_columns` weights in `block_bytes` bytes."""

    name: str
    type_id: int
    block_columns: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights; columns must fill whole blocks."""
        return exact_quotient(columns, self.block_columns, f"columns of a {self.name} row") * self.block_bytes


WEIGHT_TYPES: dict[str, WeightType] = {
    weight_type.name: weight_type
    for weight_type in (
        WeightType("F32", 0, 1, 4),
        WeightType("F16", 1, 1, 2),
        WeightType("Q4_0", 2, 32, 18),
        WeightType("Q8_0", 8, 32, 34),
    )
}


def exact_quotient(total: int, part: int, what: str) -> int:
    """total / part where no remainder is allowed; `what` names the total in the error."""
    if total % part:
        raise ModelError(f"{what} ({total}) is not a multiple of {part}")
    return total // part


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the model file. shape is rows first: [rows, columns] or [columns]."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int
    part: int = 0  # of the model's files, the one that holds it

    @property
    def columns(self) -> int:
        return self.shape[-1]


@dataclass(frozen=True)
class FilePart:
    """One of a model's files; most models have only one."""

    path: str
    header_bytes: int  # before the tensors


@dataclass(frozen=True)
class Origin:
    """Where a model's weights come from: files, or (without any) each worker makes the same ones up."""

    parts: tuple[FilePart, ...] = ()
    model_hash: str = ""


def file_hash(file: bytes | mmap.mmap, header_bytes: int) -> str:
    """Identifies a file by its header and size: quick, and no two models share them by chance."""
    digest = hashlib.sha256(file[:header_bytes])
    digest.update(len(file).to_bytes(8, "little"))
    return digest.hexdigest()


def model_hash(file_hashes: Sequence[str]) -> str:
    """Identifies a model by the hashes of its files, in their order."""
    return hashlib.sha256(" ".join(file_hashes).encode()).hexdigest()


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) of a head's first `dimension` elements."""

    dimension: int
    base: float
    scale: float  # positions are multiplied by this: linear scaling
    interleaved: bool  # True: element 2i turns with 2i+1; False: i with i + dimension/2


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer as numbers and features. Lengths are in elements, counts in pieces."""

    architecture: str
    num_layers: int
    embedding_length: int
    num_heads: int
    num_kv_heads: int
    key_length: int  # elements of one head's query or key
    value_length: int
    feed_forward_length: int
    vocabulary_size: int
    context_length: int  # positions the model was trained for
    norm_epsilon: float
    rope: Rope

    def __post_init__(self) -> None:
        for name in (
            "num_layers", "embedding_length", "num_heads", "num_kv_heads", "key_length",
            "value_length", "feed_forward_length", "vocabulary_size", "context_length",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < 2**31:
                raise ModelError(f"the model's {name} is {getattr(self, name)}; it must be a positive number")
        exact_quotient(self.num_heads, self.num_kv_heads, "the number of attention heads")
        for name in ("key_length", "value_length"):
            if getattr(self, name) % 4 or getattr(self, name) > MAX_HEAD_LENGTH:
                raise ModelError(
                    f"the model's {name} is {getattr(self, name)};"
                    f" it must be a multiple of 4, at most {MAX_HEAD_LENGTH}"
                )
        exact_quotient(self.embedding_length, 4, "the model's embedding_length")
        if not 0 < self.rope.dimension <= self.key_length or self.rope.dimension % 2:
            raise ModelError(
                f"the rope dimension is {self.rope.dimension}; it must be even and at most {self.key_length}"
            )
        for name, value in (
            ("norm_epsilon", self.norm_epsilon),
            ("rope base", self.rope.base),
            ("rope scale", self.rope.scale),
        ):
            if not 0 < value < 1e12:  # also refuses NaN
                raise ModelError(f"the model's {name} is {value}; it must be a positive number")

    @property
    def heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads


MAX_HEAD_LENGTH = 256  # what one workgroup of the attention kernel holds


@dataclass(frozen=True)
class Architecture:
    """The features in which an architecture differs from the others: one row of the table below."""

    interleaved_rope: bool


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rope=True),
}


def model_spec(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> ModelSpec:
    """The spec that a file's metadata describes. Raises ModelError where it can't be run."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelError(
            f"the architecture {architecture!r:.60} is not supported;"
            f" supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    read = _Reader(metadata, str(architecture))
    embedding_length = read.integer("embedding_length")
    num_heads = read.integer("attention.head_count")
    head_length = embedding_length // num_heads if num_heads > 0 else 0
    key_length = read.integer("attention.key_length", head_length)
    _refuse_unknown_features(read)
    return ModelSpec(
        architecture=str(architecture),
        num_layers=read.integer("block_count"),
        embedding_length=embedding_length,
        num_heads=num_heads,
        num_kv_heads=read.integer("attention.head_count_kv", num_heads),
        key_length=key_length,
        value_length=read.integer("attention.value_length", head_length),
        feed_forward_length=read.integer("feed_forward_length"),
        vocabulary_size=_vocabulary_size(tensors),
        context_length=read.integer("context_length"),
        norm_epsilon=read.number("attention.layer_norm_rms_epsilon"),
        rope=Rope(
            dimension=read.integer("rope.dimension_count", key_length),
            base=read.number("rope.freq_base", 10000.0),
            scale=_linear_rope_scale(read),
            interleaved=ARCHITECTURES[str(architecture)].interleaved_rope,
        ),
    )


def _vocabulary_size(tensors: Mapping[str, TensorInfo]) -> int:
    """The rows of the embedding: metadata may leave the size out, and the tensor can't lie about itself."""
    if "token_embd.weight" not in tensors:
        raise ModelError("the model has no tensor 'token_embd.weight'")
    return tensors["token_embd.weight"].shape[0]


def _linear_rope_scale(read: _Reader) -> float:
    kind = read.text("rope.scaling.type", "none")
    if kind == "none":
        return 1.0 / read.number("rope.scale_linear", 1.0)
    if kind == "linear":
        return 1.0 / read.number("rope.scaling.factor", 1.0)
    raise ModelError(f"rope scaling of type {kind!r} is not supported; supported: none, linear")


def _refuse_unknown_features(read: _Reader) -> None:
    if read.integer("expert_count", 0):
        raise ModelError(
            f"{read.integer('expert_count')} experts: mixture-of-experts models are not supported"
        )
    if read.integer("attention.sliding_window", 0):
        raise ModelError("sliding-window attention is not supported")


class _Reader:
    """Typed access to the keys of one architecture, with errors that name the key."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self._architecture = metadata, architecture

    def _get(self, key: str, default: Any) -> Any:
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the model's metadata has no {self._architecture}.{key}")
        return value

    def _refuse(self, key: str, value: Any, wanted: str) -> ModelError:
        return ModelError(f"the model's {self._architecture}.{key} is {value!r:.60}; {wanted} is needed")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # per-layer arrays whose layers agree
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._refuse(key, value, "one integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._refuse(key, value, "a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._refuse(key, value, "a string")
        return value
