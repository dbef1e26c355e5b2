"""The ways to cut a tensor over ranks.

Pure arithmetic on a tensor table. Knows no device and opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.gguf.origin import TensorInfo, without_leading_ones
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.split.plan import Span, covering
from tplaunch.coordinator.split.shards import ONE, Shard

FLOATS = ("F32", "F16", "BF16")  # that vectors may be of


def check_shape(tensor: TensorInfo, expected: tuple[int, ...]) -> None:
    """Raises ModelError for a tensor of another shape."""
    if without_leading_ones(tensor.shape) != without_leading_ones(expected):
        raise ModelError(
            f"the tensor {tensor.name!r} has the shape {list(tensor.shape)}, expected {list(expected)}"
        )


@dataclass(frozen=True)
class Rows:
    """The place of a matrix: all rows of a tensor, or some of one that holds several matrices."""

    tensor: str  # without ".weight"
    total: int  # rows of the tensor
    first: int = 0


class Cutter:
    """Collects the shards of one rank; each method is one way to cut a tensor."""

    def __init__(self, tensors: Mapping[str, TensorInfo], index: int, width: int) -> None:
        """index: of the rank in its stage."""
        self.tensors, self._index, self.width = tensors, index, width
        self._column_blocks = self._largest_blocks()
        self.shards: dict[str, Shard] = {}

    def _largest_blocks(self) -> dict[str, int]:
        """The largest block of each kind of tensor in any layer: all layers share one activation buffer."""
        blocks: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            kind = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 2 else name
            blocks[kind] = max(blocks.get(kind, 1), WEIGHT_TYPES[tensor.type].block_columns)
        return blocks

    def find(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        """Raises ModelError for a missing tensor and a wrong shape."""
        if name not in self.tensors:
            raise ModelError(f"the model has no tensor {name!r}")
        check_shape(self.tensors[name], shape)
        return self.tensors[name]

    def find_floats(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        """A tensor of numbers, which a rank holds as float32."""
        tensor = self.find(name, shape)
        if tensor.type not in FLOATS:
            known = ", ".join(FLOATS)
            raise ModelError(f"the vector {name!r} is of type {tensor.type}; one of {known} is needed")
        return tensor

    def part_of_vector(self, name: str, span: Span, length: int, device_name: str | None = None) -> None:
        """A rank's part of a vector."""
        self.find_floats(name, (length,))
        self.shards[device_name or name] = Shard(name, "F32", Span(0, 1), span, 0)

    def vector(self, name: str, length: int) -> None:
        """Replicated on every rank."""
        self.part_of_vector(name, Span(0, length), length, name)

    def scalars(self, name: str, count: int) -> None:
        """A number for each of `count` heads, on every rank: a row or a column in files, and a row here."""
        found = self.tensors.get(name)
        is_column = found is not None and found.shape == (count, 1)
        self.find_floats(name, (count, 1) if is_column else (count,))
        self.shards[name] = Shard(name, "F32", Span(0, 1), Span(0, count), 0, is_column=is_column)

    def pieces(self, name: str, total: int, spans: list[Span], columns: int | None = None) -> None:
        """Some ranges of a matrix's rows, one after another on the device; parts of the bias go along.

        Its columns are the model's width, or, where they are given, those of a table of numbers.
        """
        shape: tuple[int, ...] = (total, columns or self.width)
        find = self.find if columns is None else self.find_floats
        found, has_bias = find(name + ".weight", shape), name + ".bias" in self.tensors
        for index, span in enumerate(spans or [Span(0, 0)]):
            piece = f"{name}#{index}" if index else name
            held = Span(0, found.columns)
            kind = found.type if columns is None else "F32"
            self.shards[piece + ".weight"] = Shard(found.name, kind, span, held, 0)
            if has_bias:
                self.part_of_vector(name + ".bias", span, total, piece + ".bias")
            self.product_scale(name, piece, len(span))

    def head_norm(self, name: str, span: str, heads: Span, count: int, length: int) -> None:
        """Cuts the norm of queries or keys by heads, or replicates it where heads share it; with its bias."""
        for suffix in (".weight", ".bias"):
            if suffix == ".bias" and name + suffix not in self.tensors:
                continue
            if span == "head":
                self.vector(name + suffix, length)
            elif span == "row":
                self.part_of_vector(name + suffix, heads.scaled(length), count * length)
            else:
                tensor = self.find_floats(name + suffix, (count, length))
                self.shards[name + suffix] = Shard(tensor.name, "F32", heads, Span(0, length), 0)

    def norm(self, name: str) -> None:
        """Replicates the norm of the residual stream, with its bias."""
        self.vector(name + ".weight", self.width)
        if name + ".bias" in self.tensors:
            self.vector(name + ".bias", self.width)

    def column_parallel(self, name: str, rows: Rows, span: Span) -> None:
        """Cuts a matrix by output rows, with its bias: the rank holds `span`. `name` is the device's."""
        tensor = self.find(rows.tensor + ".weight", (rows.total, self.width))
        held = Span(rows.first + span.start, rows.first + span.stop)
        self.shards[name + ".weight"] = Shard(tensor.name, tensor.type, held, Span(0, self.width), 0)
        if rows.tensor + ".bias" in self.tensors:
            self.part_of_vector(rows.tensor + ".bias", held, rows.total, name + ".bias")
        self.product_scale(rows.tensor, name, len(span))

    def product_scale(self, tensor: str, name: str, num_rows: int) -> None:
        """Adds the scale of a matrix's products: one number in the file, one for each row on the device."""
        if tensor + ".scale" in self.tensors:
            self.find_floats(tensor + ".scale", (1,))
            self.shards[name + ".scale"] = Shard(tensor + ".scale", "F32", ONE, ONE, 0, repeats=num_rows)

    def matrix(self, name: str, shape: tuple[int, int], rows: Span) -> None:
        """Takes some rows of a matrix of any shape."""
        tensor = self.find(name + ".weight", shape)
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, rows, Span(0, shape[1]), 0)
        self.product_scale(name, name, len(rows))

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
            bias = prefix + name + ".bias"  # which may lie apart where weights don't
            if is_fused and prefix + fused + ".bias" not in self.tensors and bias in self.tensors:
                self.part_of_vector(bias, span, rows)
            first += rows

    def touched(self, name: str, columns: Span, total: int) -> tuple[Span, int]:
        """Returns the columns rounded outwards to blocks, and where the rank's own begin in these."""
        block = self._column_blocks[name.split(".")[2]]
        touched = covering(columns, block).scaled(block)
        held = Span(touched.start, min(touched.stop, total))
        return held, columns.start - held.start if len(columns) else 0

    def row_parallel(self, name: str, columns: Span, total: int) -> None:
        """Cuts a matrix by input columns, rounded outwards to blocks; the first rank alone adds the bias."""
        tensor = self.find(name + ".weight", (self.width, total))
        held, offset = self.touched(name, columns, total)
        self.shards[tensor.name] = Shard(tensor.name, tensor.type, Span(0, self.width), held, offset)
        if name + ".bias" in self.tensors and self._index == 0:
            self.vector(name + ".bias", self.width)
        self.product_scale(name, name, self.width)
