"""Says which bytes of a model the ranks of one host read, from their shares. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import EMBEDDING, rank_shards
from tplaunch.coordinator.split.plan import RankShare, Span
from tplaunch.coordinator.split.shards import Shard
from tplaunch.coordinator.wire import Int32s
from tplaunch.launcher.hosts.fetching.blocks import Block, Grid

FIELDS = 5  # of a block as integers
MAX_BLOCKS = 1 << 20  # of one host's wish: more than a model's tensors times its experts


def wanted_blocks(
    spec: ModelSpec, shares: Sequence[RankShare], tensors: Mapping[str, TensorInfo]
) -> list[Block]:
    """Returns what ranks with these shares read of the model's files, in the order of `tensors`.

    That is their shards, and what they look up on the host: embeddings, and factors of ropes.
    """
    numbers = {name: number for number, name in enumerate(tensors)}
    found: dict[Block, None] = {}
    for name in _on_host(spec, any(share.begins for share in shares), tensors):
        grid = Grid.of(tensors[name])
        found[Block(numbers[name], Span(0, grid.num_rows), Span(0, grid.row_bytes))] = None
    for share in shares:
        for shard in rank_shards(spec, share, tensors).values():
            tensor = tensors[shard.tensor]
            found |= dict.fromkeys(_shard_blocks(shard, tensor, numbers[shard.tensor]))
    return list(found)


def _on_host(spec: ModelSpec, begins: bool, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors of which workers read the file's own rows; begins: those of the first stage."""
    names = [EMBEDDING, spec.position_embeddings] if begins else []
    for rope in spec.ropes:
        names += (rope.frequency_factors, rope.long_frequency_factors)
    return [name for name in dict.fromkeys(names) if name and name in tensors]


def _shard_blocks(shard: Shard, tensor: TensorInfo, number: int) -> Iterator[Block]:
    """Yields what is read of a tensor, as worker.weights.model_file.shard_rows reads it."""
    rows, columns = (shard.columns, shard.rows) if shard.transposed else (shard.rows, shard.columns)
    grid, weight_type = Grid.of(tensor), WEIGHT_TYPES[tensor.type]
    if shard.is_column:
        yield Block(number, Span(0, grid.num_rows), Span(0, grid.row_bytes))
        return
    block = weight_type.block_columns
    first = columns.start // block * weight_type.block_bytes
    last = min(-(-columns.stop // block) * weight_type.block_bytes, grid.row_bytes)
    for expert in range(shard.experts.start, shard.experts.stop):
        start = expert * shard.expert_rows
        held = rows if shard.repeats == 1 else Span(0, grid.num_rows)
        if len(held) and last > first:
            yield Block(number, Span(start + held.start, start + held.stop), Span(first, last))


def to_integers(blocks: Sequence[Block]) -> Int32s:
    """Returns blocks as they travel: [blocks * FIELDS]."""
    fields = [
        (block.tensor, block.rows.start, block.rows.stop, block.bytes.start, block.bytes.stop)
        for block in blocks
    ]
    return np.array(fields, np.int32).reshape(-1)


def from_integers(numbers: Int32s, grids: Sequence[Grid]) -> list[Block]:
    """Returns the blocks that came. Raises ValueError for such as lie in no tensor."""
    if len(numbers) % FIELDS or len(numbers) > FIELDS * MAX_BLOCKS:
        raise ValueError(f"{len(numbers)} numbers are no blocks of tensors")
    blocks = []
    for tensor, first, last, start, stop in numbers.reshape(-1, FIELDS).tolist():
        if not (0 <= tensor < len(grids) and 0 <= first <= last and 0 <= start <= stop):
            raise ValueError(f"rows {first} to {last}, bytes {start} to {stop} of tensor {tensor}: none such")
        block = Block(tensor, Span(first, last), Span(start, stop))
        if not grids[tensor].holds(block):
            raise ValueError(f"rows {first} to {last}, bytes {start} to {stop} of tensor {tensor}: none such")
        blocks.append(block)
    return blocks
