"""Who holds what: splits heads, FFN columns and vocabulary rows over ranks of unequal weight.

Pure arithmetic on counts. Knows no device, no file and no process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.kv_types import KV_TYPES
from coordinator.model import ModelError, ModelSpec, TensorInfo
from coordinator.weight_types import WEIGHT_TYPES

MAX_RANKS = 8
MAX_WEIGHT = 1e15  # of a rank: more than any device has bytes, and sums stay finite
COLUMN_TILE = 32  # kernels walk a weight row in tiles of 32 columns; shards are padded to whole tiles


class PlanError(ValueError):
    """The split is impossible; the message says why in one sentence."""


@dataclass(frozen=True)
class Span:
    """The half-open range [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.stop, f"a span from {self.start} to {self.stop}"

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}..{self.stop - 1}" if len(self) else "none"

    def scaled(self, factor: int) -> Span:
        """The same pieces, each `factor` elements long."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True)
class RankShare:
    """What one rank holds of every layer, and its slice of the output's vocabulary rows."""

    rank: int
    heads: Span  # query heads
    kv_heads: Span  # those that the query heads read; neighbours may hold the same one
    feed_forward: Span  # columns of gate and up, rows of down's input
    vocabulary: Span


@dataclass(frozen=True)
class Limits:
    """The sizes that every rank allocates for."""

    context_length: int  # positions of one sequence
    num_blocks: int  # of the paged KV cache, over all sequences
    block_length: int = 32  # positions in one block
    max_rows: int = 256  # of one step: decode rows and prefill rows together
    max_logit_rows: int = 32  # rows of one step that get logits
    kv_type: str = "f16"
    activations: str = "f32"  # what products multiply weights by

    def __post_init__(self) -> None:
        for name in ("context_length", "num_blocks", "block_length", "max_rows", "max_logit_rows"):
            if not 0 < getattr(self, name) < 2**31:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.kv_type not in KV_TYPES:
            raise PlanError(f"the KV type {self.kv_type!r} is unknown; known: {', '.join(KV_TYPES)}")
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise PlanError(f"the activations {self.activations!r} are unknown; known: {known}")


ACTIVATIONS = ("f32", "f16", "q8")


def split(total: int, weights: Sequence[float], unit: int = 1) -> list[Span]:
    """Cuts `total` pieces into one span per weight, in proportion, at multiples of `unit`.

    The cuts are the rounded cumulative shares, so every rank is within one unit of its exact share.
    Spans may be empty when there are more ranks than pieces.
    """
    sum_of_weights = math.fsum(weights)
    cuts = [0]
    for rank in range(len(weights)):
        exact = total * (math.fsum(weights[: rank + 1]) / sum_of_weights)
        cut = math.floor(exact / unit + 0.5) * unit if exact < total else total
        cuts.append(min(total, max(cuts[-1], cut)))
    cuts[-1] = total
    return [Span(start, stop) for start, stop in itertools.pairwise(cuts)]


def make_plan(spec: ModelSpec, weights: Sequence[float]) -> tuple[RankShare, ...]:
    """One share per rank weight. Raises PlanError for a rank count or weights that can't be."""
    if not 1 <= len(weights) <= MAX_RANKS:
        raise PlanError(f"{len(weights)} ranks; from 1 to {MAX_RANKS} are possible")
    for weight in weights:
        if not 0 <= weight <= MAX_WEIGHT:
            raise PlanError(f"a rank weight of {weight}; weights are numbers from 0 to {MAX_WEIGHT:g}")
    if not sum(weights) > 0:
        raise PlanError("all rank weights are 0; at least one must be more")
    heads = _split_heads(spec, weights)
    columns = split(spec.feed_forward_length, weights, _column_unit(spec.feed_forward_length, len(weights)))
    vocabulary = split(spec.vocabulary_size, weights)
    group = spec.heads_per_kv_head
    return tuple(
        RankShare(
            rank=rank,
            heads=heads[rank],
            kv_heads=_covering(heads[rank], group),
            feed_forward=columns[rank],
            vocabulary=vocabulary[rank],
        )
        for rank in range(len(weights))
    )


def _split_heads(spec: ModelSpec, weights: Sequence[float]) -> list[Span]:
    """By whole KV groups while there are enough of them, else by query head with KV heads replicated."""
    if spec.num_kv_heads >= len(weights):
        return [span.scaled(spec.heads_per_kv_head) for span in split(spec.num_kv_heads, weights)]
    return split(spec.num_heads, weights)


def _covering(span: Span, unit: int) -> Span:
    """The units of `unit` pieces that the span touches."""
    return Span(span.start // unit, -(-span.stop // unit)) if len(span) else Span(0, 0)


def _column_unit(columns: int, num_ranks: int) -> int:
    """Cuts at whole quantisation blocks cost no block twice, but only where the imbalance stays under 2 %."""
    return next((unit for unit in (256, 32) if columns >= 50 * unit * num_ranks), 1)


@dataclass(frozen=True)
class Shard:
    """The part of a file's tensor that one rank holds: whole blocks around its own columns.

    `column_offset` is the place of the first own column in the shard; activations before it, and after
    the last own column, are zero, so that what else the blocks hold adds nothing.
    """

    tensor: str
    type: str
    rows: Span
    columns: Span  # of the file's tensor, whole blocks
    column_offset: int

    @property
    def padded_columns(self) -> int:
        """Columns on the device: whole tiles, filled up with zeros."""
        return padded(len(self.columns))


def padded(columns: int) -> int:
    """Rounded up to whole column tiles."""
    return -(-columns // COLUMN_TILE) * COLUMN_TILE


LAYER_VECTORS = ("attn_norm.weight", "ffn_norm.weight")


def rank_shards(spec: ModelSpec, share: RankShare, tensors: Mapping[str, TensorInfo]) -> dict[str, Shard]:
    """Every tensor that a rank loads, under its name on the device, checked against the spec's shapes.

    Raises ModelError for a missing tensor and a wrong shape.
    """
    cutter = _Cutter(tensors, share)
    query = share.heads.scaled(spec.key_length)
    key, value = share.kv_heads.scaled(spec.key_length), share.kv_heads.scaled(spec.value_length)
    attended = share.heads.scaled(spec.value_length)
    width, ffn = spec.embedding_length, share.feed_forward
    num_query, num_key = spec.num_heads * spec.key_length, spec.num_kv_heads * spec.key_length
    num_value, num_attended = spec.num_kv_heads * spec.value_length, spec.num_heads * spec.value_length
    for layer in range(spec.num_layers):
        prefix = f"blk.{layer}."
        for name in LAYER_VECTORS:
            cutter.vector(prefix + name, width)
        cutter.column_parallel(prefix + "attn_q", query, (num_query, width))
        cutter.column_parallel(prefix + "attn_k", key, (num_key, width))
        cutter.column_parallel(prefix + "attn_v", value, (num_value, width))
        cutter.row_parallel(prefix + "attn_output", attended, (width, num_attended))
        cutter.column_parallel(prefix + "ffn_gate", ffn, (spec.feed_forward_length, width))
        cutter.column_parallel(prefix + "ffn_up", ffn, (spec.feed_forward_length, width))
        cutter.row_parallel(prefix + "ffn_down", ffn, (width, spec.feed_forward_length))
    cutter.vector("output_norm.weight", width)
    output = "output" if "output.weight" in tensors else "token_embd"
    cutter.column_parallel(output, share.vocabulary, (spec.vocabulary_size, width), device_name="output")
    return cutter.shards


# Read on the host, or folded into the rope table: known, but no rank's shard.
HOST_TENSORS = ("token_embd.weight", "rope_freqs.weight")


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ModelError for missing tensors, wrong shapes, and tensors that nothing would read."""
    everything = make_plan(spec, [1.0])[0]
    read = {shard.tensor for shard in rank_shards(spec, everything, tensors).values()}
    left = sorted(set(tensors) - read - set(HOST_TENSORS))
    if left:
        raise ModelError(
            f"{len(left)} tensors of the file are not known for {spec.architecture}, the first is {left[0]!r}"
        )
    expected: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (spec.vocabulary_size, spec.embedding_length),
        "rope_freqs.weight": (spec.rope.dimension // 2,),
    }
    for name in HOST_TENSORS:
        if name in tensors:
            _check_shape(tensors[name], expected[name])


def _check_shape(tensor: TensorInfo, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise ModelError(
            f"the tensor {tensor.name!r} has the shape {list(tensor.shape)}, expected {list(expected)}"
        )


class _Cutter:
    """Collects the shards of one rank; each method is one way to cut a tensor."""

    def __init__(self, tensors: Mapping[str, TensorInfo], share: RankShare) -> None:
        self._tensors, self._share = tensors, share
        self._column_blocks = self._largest_blocks()
        self.shards: dict[str, Shard] = {}

    def _largest_blocks(self) -> dict[str, int]:
        """The largest block of each kind of tensor in any layer: all layers share one activation buffer."""
        blocks: dict[str, int] = {}
        for name, tensor in self._tensors.items():
            kind = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 2 else name
            blocks[kind] = max(blocks.get(kind, 1), WEIGHT_TYPES[tensor.type].block_columns)
        return blocks

    def _find(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        if name not in self._tensors:
            raise ModelError(f"the model has no tensor {name!r}")
        _check_shape(self._tensors[name], shape)
        return self._tensors[name]

    def _vector(self, name: str, span: Span, length: int, device_name: str) -> None:
        tensor = self._find(name, (length,))
        if tensor.type != "F32":
            raise ModelError(f"the vector {name!r} is of type {tensor.type}; F32 is needed")
        self.shards[device_name] = Shard(name, "F32", Span(0, 1), span, 0)

    def vector(self, name: str, length: int) -> None:
        """Replicated on every rank."""
        self._vector(name, Span(0, length), length, name)

    def column_parallel(
        self, name: str, rows: Span, shape: tuple[int, int], device_name: str | None = None
    ) -> None:
        """By output row; the bias goes along."""
        tensor = self._find(name + ".weight", shape)
        device_name = device_name or name
        self.shards[device_name + ".weight"] = Shard(tensor.name, tensor.type, rows, Span(0, shape[1]), 0)
        if name + ".bias" in self._tensors:
            self._vector(name + ".bias", rows, shape[0], device_name + ".bias")

    def row_parallel(self, name: str, columns: Span, shape: tuple[int, int]) -> None:
        """By input column, rounded outwards to blocks; rank 0 adds the bias, once."""
        tensor = self._find(name + ".weight", shape)
        block = self._column_blocks[name.split(".")[2]]
        touched = _covering(columns, block).scaled(block)
        held = Span(touched.start, min(touched.stop, shape[1]))
        offset = columns.start - held.start if len(columns) else 0
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, Span(0, shape[0]), held, offset)
        if name + ".bias" in self._tensors and self._share.rank == 0:
            self._vector(name + ".bias", Span(0, shape[0]), shape[0], name + ".bias")
