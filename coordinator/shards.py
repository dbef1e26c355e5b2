"""Which part of each tensor a rank loads, by what a model's features and the plan say.

Pure arithmetic on a tensor table. Knows no device and opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.attention_spec import Latent
from coordinator.model import AttentionSpec, FeedForwardSpec, ModelError, ModelSpec, TensorInfo
from coordinator.plan import LayerShare, RankShare, Span, covering, make_plan, padded
from coordinator.recurrent_shards import cut_recurrent
from coordinator.weight_types import WEIGHT_TYPES


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


def rank_shards(spec: ModelSpec, share: RankShare, tensors: Mapping[str, TensorInfo]) -> dict[str, Shard]:
    """Every tensor that a rank loads, under its name on the device, checked against the spec's shapes.

    Raises ModelError for a missing tensor and a wrong shape.
    """
    cutter = _Cutter(tensors, share.rank, spec.embedding_length)
    for index, (layer, layer_share) in enumerate(zip(spec.layers, share.layers, strict=True)):
        prefix = f"blk.{index}."
        for name in layer_norms(spec):
            cutter.norm(prefix + name)
        if layer.attention is not None:
            _cut_attention(cutter, prefix, layer.attention, layer_share)
        if layer.recurrent is not None:
            cut_recurrent(cutter, prefix, layer.recurrent, layer_share)
        if layer.feed_forward is not None:
            _cut_feed_forward(cutter, prefix, layer.feed_forward, layer_share.feed_forward)
    cutter.norm(spec.output_norm)
    if spec.embedding_norm:
        cutter.norm(spec.embedding_norm)
    output = "output" if "output.weight" in tensors else "token_embd"
    rows = Rows(output, spec.vocabulary_size)
    cutter.column_parallel("output", rows, share.vocabulary)
    return cutter.shards


def layer_norms(spec: ModelSpec) -> list[str]:
    """The tensors that normalise rows in every layer, without ".weight"."""
    block = spec.block
    names = (
        block.attention_norm,
        block.attention_post_norm,
        block.feed_forward_norm,
        block.feed_forward_post_norm,
    )
    return [name for name in dict.fromkeys(names) if name]


def _cut_attention(cutter: _Cutter, prefix: str, attention: AttentionSpec, share: LayerShare) -> None:
    if attention.latent is not None:
        _cut_latent_attention(cutter, prefix, attention, attention.latent, share)
        return
    key_length, value_length = attention.key_length, attention.value_length
    parts = (
        ("attn_q", share.heads.scaled(attention.query_stride), attention.num_heads * attention.query_stride),
        ("attn_k", share.kv_heads.scaled(key_length), attention.num_kv_heads * key_length),
        ("attn_v", share.kv_heads.scaled(value_length), attention.num_kv_heads * value_length),
    )
    cutter.fused_column_parallel(prefix, parts, "attn_qkv")
    if attention.head_norm is not None and attention.head_norm.weighted:
        counts = (attention.num_heads, attention.num_kv_heads)
        for kind, heads, count in zip(("q", "k"), (share.heads, share.kv_heads), counts, strict=True):
            cutter.head_norm(f"{prefix}attn_{kind}_norm", attention.head_norm.span, heads, count, key_length)
    if attention.sinks:
        cutter.part_of_vector(prefix + "attn_sinks.weight", share.heads, attention.num_heads)
    attended = share.heads.scaled(value_length)
    cutter.row_parallel(prefix + "attn_output", attended, attention.num_heads * value_length)


def _cut_latent_attention(
    cutter: _Cutter, prefix: str, attention: AttentionSpec, latent: Latent, share: LayerShare
) -> None:
    """What makes the latent is replicated where there are heads; what is of one head goes with it."""
    heads, count = share.heads, attention.num_heads

    def whole(length: int) -> Span:
        return Span(0, length if len(heads) else 0)

    query = heads.scaled(latent.query_length), count * latent.query_length
    if latent.query_rank:
        cutter.matrix(prefix + "attn_q_a", (latent.query_rank, cutter.width), whole(latent.query_rank))
        cutter.vector(prefix + "attn_q_a_norm.weight", latent.query_rank)
        cutter.matrix(prefix + "attn_q_b", (query[1], latent.query_rank), query[0])
    else:
        cutter.matrix(prefix + "attn_q", (query[1], cutter.width), query[0])
    cutter.matrix(prefix + "attn_kv_a_mqa", (attention.key_length, cutter.width), whole(attention.key_length))
    cutter.vector(prefix + "attn_kv_a_norm.weight", latent.rank)
    cutter.head_matrices(prefix + "attn_k_b", (count, latent.rank, latent.nope_length), heads)
    cutter.head_matrices(prefix + "attn_v_b", (count, latent.value_length, latent.rank), heads)
    attended = heads.scaled(latent.value_length)
    cutter.row_parallel(prefix + "attn_output", attended, count * latent.value_length)


def _cut_feed_forward(cutter: _Cutter, prefix: str, feed_forward: FeedForwardSpec, columns: Span) -> None:
    length = feed_forward.length
    names = ("ffn_gate", "ffn_up") if feed_forward.gated else ("ffn_up",)
    cutter.fused_column_parallel(prefix, tuple((name, columns, length) for name in names), "ffn_up")
    if feed_forward.has_divisors:
        cutter.part_of_vector(prefix + "ffn.act.scales", columns, length)
    cutter.row_parallel(prefix + "ffn_down", columns, length)


# Read on the host, or folded into the rope table: known, but no rank's shard.
EMBEDDING = "token_embd.weight"


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ModelError for missing tensors, wrong shapes, and tensors that nothing would read."""
    everything = make_plan(spec, [1.0])[0]
    on_host: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocabulary_size, spec.embedding_length)}
    for rope in spec.ropes:
        names = (rope.factors, rope.long_factors)
        on_host |= {name: (rope.dimension // 2,) for name in names if name}
    if spec.position_embeddings:
        on_host[spec.position_embeddings] = (spec.context_length, spec.embedding_length)
    read = {shard.tensor for shard in rank_shards(spec, everything, tensors).values()} | on_host.keys()
    left = sorted(tensors.keys() - read - set(spec.unused_tensors))
    if left:
        raise ModelError(
            f"{len(left)} tensors of the file are not known for {spec.architecture}, the first is {left[0]!r}"
        )
    for name, expected in on_host.items():
        if name not in tensors:
            raise ModelError(f"the model has no tensor {name!r}")
        _check_shape(tensors[name], expected)


def _check_shape(tensor: TensorInfo, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise ModelError(
            f"the tensor {tensor.name!r} has the shape {list(tensor.shape)}, expected {list(expected)}"
        )


@dataclass(frozen=True)
class Rows:
    """Where a matrix is: all rows of a tensor, or some of one that holds several matrices."""

    tensor: str  # without ".weight"
    total: int  # rows of the tensor
    first: int = 0


NO_TENSOR = TensorInfo("", "F32", (), 0, 0)


class _Cutter:
    """Collects the shards of one rank; each method is one way to cut a tensor."""

    def __init__(self, tensors: Mapping[str, TensorInfo], rank: int, width: int) -> None:
        self.tensors, self._rank, self.width = tensors, rank, width
        self._column_blocks = self._largest_blocks()
        self.shards: dict[str, Shard] = {}

    def _largest_blocks(self) -> dict[str, int]:
        """The largest block of each kind of tensor in any layer: all layers share one activation buffer."""
        blocks: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            kind = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 2 else name
            blocks[kind] = max(blocks.get(kind, 1), WEIGHT_TYPES[tensor.type].block_columns)
        return blocks

    def _find(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        if name not in self.tensors:
            raise ModelError(f"the model has no tensor {name!r}")
        _check_shape(self.tensors[name], shape)
        return self.tensors[name]

    def _find_floats(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        tensor = self._find(name, shape)
        if tensor.type != "F32":
            raise ModelError(f"the vector {name!r} is of type {tensor.type}; F32 is needed")
        return tensor

    def part_of_vector(self, name: str, span: Span, length: int, device_name: str | None = None) -> None:
        """A rank's part of a vector."""
        self._find_floats(name, (length,))
        self.shards[device_name or name] = Shard(name, "F32", Span(0, 1), span, 0)

    def vector(self, name: str, length: int) -> None:
        """Replicated on every rank."""
        self.part_of_vector(name, Span(0, length), length, name)

    def replicated(self, name: str, *shapes: tuple[int, ...]) -> None:
        """A tensor of numbers as it is, of the first of the shapes unless it has another of them."""
        found = self.tensors.get(name)
        shape = found.shape if found is not None and found.shape in shapes else shapes[0]
        tensor = self._find_floats(name, shape)
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        self.shards[name] = Shard(name, "F32", Span(0, rows), Span(0, tensor.columns), 0)

    def pieces(self, name: str, total: int, spans: list[Span], columns: int | None = None) -> None:
        """Some ranges of a matrix's rows, one after another on the device; parts of the bias go along.

        Its columns are the model's width, or, where they are given, those of a table of numbers.
        """
        shape: tuple[int, ...] = (total, columns or self.width)
        known = self.tensors.get(name + ".weight")
        if columns is not None and total == 1 and known is not None and len(known.shape) == 1:
            shape = shape[1:]  # programs that rewrite files drop a dimension of 1
        find = self._find if columns is None else self._find_floats
        found, has_bias = find(name + ".weight", shape), name + ".bias" in self.tensors
        for index, span in enumerate(spans or [Span(0, 0)]):
            piece = f"{name}#{index}" if index else name
            held = Span(0, found.columns)
            self.shards[piece + ".weight"] = Shard(found.name, found.type, span, held, 0)
            if has_bias:
                self.part_of_vector(name + ".bias", span, total, piece + ".bias")

    def head_norm(self, name: str, span: str, heads: Span, count: int, length: int) -> None:
        """Of queries or keys; weights that all heads share are replicated. The bias goes along."""
        for suffix in (".weight", ".bias"):
            if suffix == ".bias" and name + suffix not in self.tensors:
                continue
            if span == "head":
                self.vector(name + suffix, length)
            elif span == "row":
                self.part_of_vector(name + suffix, heads.scaled(length), count * length)
            else:
                tensor = self._find_floats(name + suffix, (count, length))
                self.shards[name + suffix] = Shard(tensor.name, tensor.type, heads, Span(0, length), 0)

    def norm(self, name: str) -> None:
        """Of rows of the residual stream; the bias goes along."""
        self.vector(name + ".weight", self.width)
        if name + ".bias" in self.tensors:
            self.vector(name + ".bias", self.width)

    def column_parallel(self, name: str, rows: Rows, span: Span) -> None:
        """By output row, of which the rank holds `span`; the bias goes along. `name` is the device's."""
        tensor = self._find(rows.tensor + ".weight", (rows.total, self.width))
        held = Span(rows.first + span.start, rows.first + span.stop)
        self.shards[name + ".weight"] = Shard(tensor.name, tensor.type, held, Span(0, self.width), 0)
        if rows.tensor + ".bias" in self.tensors:
            self.part_of_vector(rows.tensor + ".bias", held, rows.total, name + ".bias")

    def matrix(self, name: str, shape: tuple[int, int], rows: Span) -> None:
        """Some rows of a matrix of any shape."""
        tensor = self._find(name + ".weight", shape)
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, rows, Span(0, shape[1]), 0)

    def head_matrices(self, name: str, shape: tuple[int, int, int], heads: Span) -> None:
        """A matrix for each head [heads, rows, columns]; that of a lone head may be [rows, columns]."""
        count, rows, columns = shape
        is_flat = count == 1 and len(self.tensors.get(name + ".weight", NO_TENSOR).shape) == 2
        tensor = self._find(name + ".weight", shape[1:] if is_flat else shape)
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, heads.scaled(rows), Span(0, columns), 0)

    def fused_column_parallel(
        self, prefix: str, parts: tuple[tuple[str, Span, int], ...], fused: str
    ) -> None:
        """Matrices, each with the rank's span and its rows, that a file may hold in one tensor `fused`."""
        total = sum(rows for _, _, rows in parts)
        whole = self.tensors.get(prefix + fused + ".weight")
        is_fused = whole is not None and whole.shape[0] == total
        is_fused = is_fused and any(prefix + name + ".weight" not in self.tensors for name, _, _ in parts)
        first = 0
        for name, span, rows in parts:
            own = Rows(prefix + fused, total, first) if is_fused else Rows(prefix + name, rows)
            self.column_parallel(prefix + name, own, span)
            first += rows

    def row_parallel(self, name: str, columns: Span, total: int) -> None:
        """By input column, rounded outwards to blocks; rank 0 adds the bias, once."""
        tensor = self._find(name + ".weight", (self.width, total))
        block = self._column_blocks[name.split(".")[2]]
        touched = covering(columns, block).scaled(block)
        held = Span(touched.start, min(touched.stop, total))
        offset = columns.start - held.start if len(columns) else 0
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, Span(0, self.width), held, offset)
        if name + ".bias" in self.tensors and self._rank == 0:
            self.vector(name + ".bias", self.width)
