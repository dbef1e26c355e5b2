"""Puts the segments of a program together: sums, products and all-reduces, each where the last one ended."""

from __future__ import annotations

from collections.abc import Mapping

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.stack_parts import in_parts, part_names
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.common import MatMul, Op, Quantize, RowSet, SumNorm, SumSlice
from tplaunch.worker.ops.experts import ExpertTiles
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Phase, Program, Segment


class ProgramBuilder:
    """The program of one rank for one bucket of rows, as it grows."""

    def __init__(
        self,
        spec: ModelSpec,
        share: RankShare,
        shards: Mapping[str, Shard],
        num_ranks: int,
        rows: int,
        logit_rows: int,
        options: ProgramOptions,
    ) -> None:
        self.spec, self.share, self.shards = spec, share, shards
        self.stacks = in_parts(stack_shards(shards), options.max_buffer)
        self.num_ranks, self.num_rows, self._logit_rows = num_ranks, rows, logit_rows
        self._activations, self.of_prompts = options.activations, options.of_prompts
        self.in_one_part, self._as_floats = options.in_one_part, options.as_floats
        self.attends_by_matrices = options.attends_by_matrices and options.of_prompts
        self._two_phase = options.two_phase and num_ranks > 1
        self._host_sums = options.host_sums and num_ranks > 1
        self.shares_routing = options.shares_routing and num_ranks > 1
        self._segments: list[Segment] = []
        self._ops: list[Op] = []
        self._residual = "embedding"  # where the residual stream is, until something is added to it
        self._addend: str | None = None  # what is still to be added to it: partial sums, or a buffer
        self._num_exchanges = 0

    def finished(self) -> Program:
        """The program. Its exchanges are even in number, so that the arena's parities take turns."""
        if self.num_ranks > 1 and self._num_exchanges % 2:
            self.exchange()
        self._segments.append(Segment(tuple(self._ops), None))
        return Program(self.num_rows, self._logit_rows, tuple(self._segments))

    def add(self, op: Op) -> None:
        """Appends to the segment."""
        self._ops.append(op)

    def norm(self, tensor: str, output: str, rows: RowSet = "rows") -> None:
        """Adds what is pending to the residual stream, and normalises it by a tensor, or not by ""."""
        self._sum_norm(self._residual, tensor, output, rows)
        self._residual, self._addend = "hidden", None

    def start(self, tensor: str) -> None:
        """Begins the residual stream with normalised embeddings."""
        self._addend = self._residual
        self._sum_norm(None, tensor, "hidden", "rows")
        self._residual, self._addend = "hidden", None

    def post_norm(self, tensor: str, output: str) -> None:
        """Normalises what is pending by itself; the output is pending in its place."""
        assert self._addend is not None, "nothing is pending"
        self._sum_norm(None, tensor, output, "rows")
        self._addend = output

    def _sum_norm(self, source: str | None, tensor: str, output: str, rows: RowSet) -> None:
        spec, addend = self.spec, self._addend
        is_partial = addend == "partials"
        self.add(
            SumNorm(
                source,
                f"{tensor}.weight" if tensor else None,
                spec.embedding_length,
                spec.norm.epsilon,
                output,
                rows,
                addend,
                self._last_parity if is_partial else None,
                spec.norm.kind,
                self.bias(tensor),
                summed=(self._two_phase or self._host_sums) and is_partial,
            )
        )

    @property
    def next_parity(self) -> int:
        """The parity of the partial sums that the next all-reduce adds up."""
        return self._num_exchanges % 2

    def products(self, tensors: list[str], output: str) -> None:
        """Multiplies the normed rows by each tensor, side by side in the output."""
        offset = 0
        for tensor in tensors:
            offset = self.matmul(tensor, "normed", output, offset=offset)

    def matmul(
        self,
        tensor: str,
        source: str,
        output: str,
        rows: RowSet = "rows",
        *,
        offset: int = 0,
        parity: int | None = None,
        activation: str | None = None,
        gated: bool = False,
        scale: float = 1.0,
        softcap: float = 0.0,
        accumulates: bool = False,
        exact: bool = False,
    ) -> int:
        """A product with a stack of matrices, where `exact` of float32; the rest is as MatMul has it.

        It is one with each part of a stack that is cut. Returns the offset behind the last column.
        """
        for part in self.parts(tensor):
            matrix, given = self.matrix(part), source
            activations = "f32" if exact else self.activations_for(matrix, rows)
            if activations != "f32":
                given = self.quantized(Quantize(source, matrix.columns, rows, activations))
            product = MatMul(
                matrix,
                self.bias(part),
                given,
                output,
                offset,
                rows,
                parity,
                activation,
                gated,
                activations,
                scale,
                softcap,
                accumulates,
                self.product_scales(part),
                of_prompts=self.of_prompts and rows == "rows" and not exact,
            )
            self.add(product)
            offset += product.columns
        return offset

    def parts(self, tensor: str) -> list[str]:
        """Returns the names of a tensor's parts, in order: its own where it is whole."""
        return part_names(self.stacks, tensor)

    def matrix(self, tensor: str) -> Matrix:
        """Describes a stack of matrices as it is on the device."""
        stack = self.stacks[tensor + ".weight"]
        return Matrix(stack.name, stack.type, stack.rows, stack.padded_columns)

    def bias(self, tensor: str) -> str | None:
        """Returns the name of a tensor's bias, where the model has it."""
        return f"{tensor}.bias" if f"{tensor}.bias" in self.stacks else None

    def product_scales(self, tensor: str) -> str | None:
        """Returns the name of the scales of a tensor's product rows, where the model has them."""
        return f"{tensor}.scale" if f"{tensor}.scale" in self.stacks else None

    def activations_for(self, matrix: Matrix, rows: RowSet = "rows") -> str:
        """Returns the precision of a product's input: the wanted one, where it can be used.

        Rows stay floats where quantizing them does not pay. Float16 are rows of prompts, however many they
        are, and no others: see ProgramOptions.
        """
        weight_format = FORMATS[matrix.type]
        fits = {
            "f32": True,
            "q8": weight_format.has_integers and matrix.type not in self._as_floats,
            "f16": weight_format.fits_float16 and self.of_prompts and rows == "rows",
        }
        return self._activations if matrix.columns and fits[self._activations] else "f32"

    def group_pairs(self, tiles: ExpertTiles) -> None:
        """Groups the pairs of a layer's experts, unless the same were grouped last."""
        last = next(
            (op for op in reversed(self._ops) if tiles.reads & op.writes or tiles.writes & op.writes), None
        )
        if last != tiles:
            self.add(tiles)

    def quantized(self, quantize: Quantize) -> str:
        """Quantizes a buffer, unless that was done since either of the two was written."""
        buffers = {quantize.input, quantize.output}
        last = next((op for op in reversed(self._ops) if buffers & op.writes), None)
        if last != quantize:
            self.add(quantize)
        return quantize.output

    def partial(self, tensor: str, source: str, *, accumulates: bool = False) -> None:
        """A row-parallel product into this rank's slot; without columns of its own a rank adds zeros."""
        parity, scale = self.next_parity, self.spec.block.residual_scale
        self.matmul(tensor, source, "partials", parity=parity, scale=scale, accumulates=accumulates)

    def exchange(self) -> None:
        """Ends the segment with an all-reduce; its sum is pending then."""
        parity = self._last_parity = self.next_parity
        self._num_exchanges += 1
        self._addend = "partials"
        if self._two_phase:
            self._end_segment(parity, Phase.PARTIALS)
            self.add(SumSlice(parity, self.share.index))
            self._end_segment(parity, Phase.SLICES)
        elif self.num_ranks > 1:
            self._end_segment(parity, Phase.HOSTS if self._host_sums else Phase.ONE_SHOT)

    def exchange_rows(self, row_length: int) -> None:
        """Ends the segment with an exchange of short rows, which nothing is added to; one rank needs none."""
        parity = self.next_parity
        self._num_exchanges += 1
        if self.num_ranks > 1:
            self._end_segment(parity, Phase.ONE_SHOT, row_length)

    def _end_segment(self, parity: int, phase: Phase, row_length: int = 0) -> None:
        self._segments.append(Segment(tuple(self._ops), parity, phase, row_length))
        self._ops = []
