"""The model as data: segments of operations over named buffers, cut at the all-reduces.

A spec, a rank's share and a row bucket go in, a Program comes out. Knows no device; every device runs
the same program, and `worker/buffers.py` says how large each buffer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from coordinator.model import ModelSpec
from coordinator.plan import RankShare, Shard
from worker.formats import FORMATS
from worker.ops import (
    QUANTIZED,
    Attention,
    AttentionCombine,
    GatedActivation,
    MatMul,
    Matrix,
    Op,
    Quantize,
    RopeCache,
    RowSet,
    SumNorm,
    SumSlice,
)
from worker.stacks import GATE_UP, QKV, stack_shards, stacked_tensors

MIN_MATRIX_ROWS = 8  # of a program: fewer would leave cooperative matrices half empty


class Phase(Enum):
    """What the host makes ready behind a segment. In two phases a rank adds up a slice only."""

    ONE_SHOT = "one-shot"  # all partials, for every rank to add up
    PARTIALS = "partials"  # this rank's slice of all partials
    SLICES = "slices"  # the sum, from the ranks' slices


@dataclass(frozen=True)
class Segment:
    """Operations that run without a word from the host; then an all-reduce or a phase of one, or the end."""

    ops: tuple[Op, ...]
    parity: int | None
    phase: Phase = Phase.ONE_SHOT


@dataclass(frozen=True)
class Program:
    """A whole step for up to `rows` rows, of which up to `logit_rows` get logits."""

    rows: int
    logit_rows: int
    segments: tuple[Segment, ...]

    @property
    def num_all_reduces(self) -> int:
        ends = (segment for segment in self.segments if segment.parity is not None)
        return sum(segment.phase is not Phase.SLICES for segment in ends)


def build_program(
    spec: ModelSpec,
    share: RankShare,
    shards: Mapping[str, Shard],
    num_ranks: int,
    rows: int,
    logit_rows: int,
    *,
    activations: str = "f32",
    two_phase: bool = False,
) -> Program:
    """The program of one rank. Two all-reduces a layer; one rank alone needs none and gets one segment.

    two_phase: how the all-reduces are made; the same bits come out either way.
    """
    return _Builder(spec, share, shards, num_ranks, activations, two_phase).build(rows, logit_rows)


def build_sums(
    spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard], num_ranks: int, rows: int, two_phase: bool
) -> Program:
    """Nothing but the all-reduces of a layer and what adds them up: for measuring these."""
    return _Builder(spec, share, shards, num_ranks, "f32", two_phase).build_sums(rows)


class _Builder:
    def __init__(
        self,
        spec: ModelSpec,
        share: RankShare,
        shards: Mapping[str, Shard],
        num_ranks: int,
        activations: str,
        two_phase: bool,
    ) -> None:
        self._spec, self._share, self._num_ranks = spec, share, num_ranks
        self._activations = activations
        self._shards, self._stacks = shards, stack_shards(shards)
        self._two_phase = two_phase and num_ranks > 1
        self._segments: list[Segment] = []
        self._ops: list[Op] = []
        self._pending: int | None = None  # parity of the partial sums that no one has added yet
        self._num_reduces = 0

    def build(self, rows: int, logit_rows: int) -> Program:
        self._rows, self._logit_rows = rows, logit_rows
        for layer in range(self._spec.num_layers):
            self._attention_inputs(layer)
            if not logit_rows and layer == self._spec.num_layers - 1:
                break  # the step only fills the cache: nothing reads what would follow
            self._attention(layer)
            self._feed_forward(layer)
        if logit_rows:
            self._logits()
        self._segments.append(Segment(tuple(self._ops), None))
        return Program(rows, logit_rows, tuple(self._segments))

    def build_sums(self, rows: int) -> Program:
        for _ in range(2):
            self._exchange()
            self._sum_norm("blk.0.attn_norm.weight", "normed", "embedding")
        self._segments.append(Segment(tuple(self._ops), None))
        return Program(rows, 0, tuple(self._segments))

    def _attention_inputs(self, layer: int) -> None:
        prefix = f"blk.{layer}."
        self._sum_norm(prefix + "attn_norm.weight", "normed", "embedding" if layer == 0 else "hidden")
        if not len(self._share.heads):
            return
        self._products(stacked_tensors(f"blk.{layer}", QKV, self._shards), "qkv")
        spec, share = self._spec, self._share
        self._ops.append(
            RopeCache(
                *cache_names(layer),
                num_heads=len(share.heads),
                num_kv_heads=len(share.kv_heads),
                key_length=spec.key_length,
                value_length=spec.value_length,
                rope_dimension=spec.rope.dimension,
                interleaved=spec.rope.interleaved,
            )
        )

    def _attention(self, layer: int) -> None:
        spec, share = self._spec, self._share
        output = f"blk.{layer}.attn_output"
        if len(share.heads):
            self._ops.append(
                Attention(
                    *cache_names(layer),
                    num_heads=len(share.heads),
                    num_kv_heads=len(share.kv_heads),
                    first_head=share.heads.start % spec.heads_per_kv_head,
                    heads_per_kv_head=spec.heads_per_kv_head,
                    key_length=spec.key_length,
                    value_length=spec.value_length,
                    scale=spec.key_length**-0.5,
                )
            )
            offset = self._shards[output + ".weight"].column_offset
            self._ops.append(AttentionCombine(len(share.heads), spec.value_length, offset))
        self._all_reduce(output, "attended")

    def _feed_forward(self, layer: int) -> None:
        prefix = f"blk.{layer}."
        self._sum_norm(prefix + "ffn_norm.weight", "normed", "hidden")
        columns = len(self._share.feed_forward)
        if columns:
            offset = self._shards[prefix + "ffn_down.weight"].column_offset
            stacked = stacked_tensors(f"blk.{layer}", GATE_UP, self._shards)
            if len(stacked) == 1:
                self._matmul(stacked[0], "normed", "activated", offset=offset, gated=True)
            else:
                self._products(stacked, "gate_up")
                self._ops.append(GatedActivation(columns, offset))
        self._all_reduce(prefix + "ffn_down", "activated")

    def _logits(self) -> None:
        self._sum_norm("output_norm.weight", "final", "hidden", "logit_rows")
        if len(self._share.vocabulary):
            self._matmul("output", "final", "logits", "logit_rows")

    def _sum_norm(self, weight: str, output: str, source: str, rows: RowSet = "rows") -> None:
        width, epsilon = self._spec.embedding_length, self._spec.norm_epsilon
        summed = self._two_phase and self._pending is not None
        self._ops.append(SumNorm(source, self._pending, weight, width, epsilon, output, rows, summed))
        self._pending = None

    def _products(self, tensors: list[str], output: str) -> None:
        """Side by side in the output."""
        offset = 0
        for tensor in tensors:
            self._matmul(tensor, "normed", output, offset=offset)
            offset += self._stacks[tensor + ".weight"].rows

    def _matmul(
        self,
        tensor: str,
        source: str,
        output: str,
        rows: RowSet = "rows",
        *,
        offset: int = 0,
        parity: int | None = None,
        gated: bool = False,
    ) -> None:
        stack = self._stacks[tensor + ".weight"]
        matrix = Matrix(stack.name, stack.type, stack.rows, stack.padded_columns)
        bias = tensor + ".bias" if tensor + ".bias" in self._stacks else None
        activations = self._activations_for(matrix, rows)
        if activations != "f32":
            source = self._quantized(Quantize(source, matrix.columns, rows, activations))
        self._ops.append(MatMul(matrix, bias, source, output, offset, rows, parity, gated, activations))

    def _activations_for(self, matrix: Matrix, rows: RowSet) -> str:
        """What a product multiplies by: what was asked for, where it can and where it pays."""
        weight_format = FORMATS[matrix.type]
        num_rows = self._rows if rows == "rows" else self._logit_rows
        fits = {
            "f32": True,
            "q8": weight_format.has_integers,
            "f16": weight_format.fits_float16 and num_rows >= MIN_MATRIX_ROWS,
        }
        return self._activations if matrix.columns and fits[self._activations] else "f32"

    def _quantized(self, quantize: Quantize) -> str:
        """Quantizes a buffer, unless that was done since either of the two was written."""
        buffers = {quantize.input, QUANTIZED}
        last = next((op for op in reversed(self._ops) if buffers & op.writes), None)
        if last != quantize:
            self._ops.append(quantize)
        return QUANTIZED

    def _all_reduce(self, tensor: str, source: str) -> None:
        """A row-parallel product into this rank's slot; without columns of its own a rank adds zeros."""
        self._matmul(tensor, source, "partials", parity=self._num_reduces % 2)
        self._exchange()

    def _exchange(self) -> None:
        parity = self._num_reduces % 2
        self._num_reduces += 1
        self._pending = parity
        if self._two_phase:
            self._end_segment(parity, Phase.PARTIALS)
            self._ops.append(SumSlice(parity, self._share.rank))
            self._end_segment(parity, Phase.SLICES)
        elif self._num_ranks > 1:
            self._end_segment(parity, Phase.ONE_SHOT)

    def _end_segment(self, parity: int, phase: Phase) -> None:
        self._segments.append(Segment(tuple(self._ops), parity, phase))
        self._ops = []


def cache_names(layer: int) -> tuple[str, str]:
    """The buffers of one layer's keys and values."""
    return f"cache.{layer}.key", f"cache.{layer}.value"
