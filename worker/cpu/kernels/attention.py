"""Attention over a paged cache of any type.

The keys of a row are cut at fixed positions (worker/buffers/cuts.py). A cut's are computed from zero and
folded from left to right, so that a row's bits depend neither on the rows beside it nor on who computes which
part. Queries of one sequence that share a KV head are computed together, and a few by themselves, to the same
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from tplaunch.worker.buffers.cuts import CUT
from tplaunch.worker.cpu.attention_room import TILE, VECTORS
from tplaunch.worker.cpu.kernels.cells import CELL_TYPES, Blocks, Cells, cell_of
from tplaunch.worker.cpu.kernels.parts import Step, cut_of, part_of, position_of
from tplaunch.worker.cpu.kernels.queries import (
    Heads,
    Queries,
    Room,
    all_seen,
    begin,
    fold_cut,
    room_of,
    seen,
    weights_of,
    write_part,
)
from tplaunch.worker.cpu.kernels.scores import four_by_four, with_sixteen_floats, with_sixteen_keys
from tplaunch.worker.cpu.kernels.vectors import store, unsigned
from tplaunch.worker.cpu.kernels.weighted import add_floats, of_four, of_one
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
FEW = 2  # queries for which nothing is widened beforehand
GROUP = 4  # queries that are computed at once where it is


def attend(kv_type: str) -> Callable[..., None]:
    """Makes the kernel of a cache's type: each part's sums of values, with the softmax's maximum and sum.

    The output is in the slots of worker/buffers/step.py: `sums` [slots, heads, value_length] and `scales`
    [slots, heads, 2].
    """
    load_chunk, load_first, _ = CELL_TYPES[kv_type]
    with_sixteen, add = with_sixteen_keys(load_chunk), of_one(load_chunk)

    @inlined
    def widen(
        cells: Cells, blocks: Blocks, first: int, stop: int, out: int, stride: int, length: int
    ) -> None:
        for key in range(first, stop):
            cell, row = cell_of(blocks, key), out + (key - first) * stride
            for chunk in range((length + 15) // 16):
                store(row + 64 * chunk, load_first(cells, cell, chunk, length - 16 * chunk))

    @inlined
    def score(
        cells: Cells, blocks: Blocks, room: Room, count: int, length: int, start: int, first: int, stop: int
    ) -> None:
        """Scores of all queries with the keys from `first` up to `stop`, and with some beside them."""
        chunks = (length + 15) // 16
        if count <= FEW and length % 16 == 0 and blocks.length % 16 == 0:
            for key in range(first - first % 16, stop, 16):
                cell = cell_of(blocks, key)
                for query in range(count):
                    found = with_sixteen(room.queries + query * room.query_stride, cells, cell, chunks)
                    store(room.scores + 4 * (query * CUT + key - start), found)
            return
        for tile in range(first - first % TILE, stop, TILE):
            lower, upper = max(tile, first), min(tile + TILE, stop)
            row = room.tile + (lower - tile) * room.tile_stride
            widen(cells, blocks, lower, upper, row, room.tile_stride, length)
            query = 0
            while query + GROUP <= count:
                for key in range(lower - lower % 4, upper, 4):
                    four_by_four(
                        room.queries + query * room.query_stride,
                        room.query_stride,
                        room.tile + (key - tile) * room.tile_stride,
                        room.tile_stride,
                        chunks,
                        room.scores + 4 * (query * CUT + key - start),
                        4 * CUT,
                    )
                query += GROUP
            floats = Cells(room.tile, 0, room.tile_stride)
            while query < count:
                for key in range(lower - lower % 16, upper, 16):
                    address = room.queries + query * room.query_stride
                    found = with_sixteen_floats(address, floats, key - tile, chunks)
                    store(room.scores + 4 * (query * CUT + key - start), found)
                query += 1

    @inlined
    def weigh(
        cells: Cells, blocks: Blocks, room: Room, count: int, length: int, start: int, first: int, stop: int
    ) -> None:
        """Adds the values of the keys from `first` up to `stop`, to each query's sums those that it sees."""
        chunks = (length + 15) // 16
        if count <= FEW and length % 16 == 0:
            for query in range(count):
                weights, sums = room.scores + 4 * CUT * query, room.cut_sums + query * room.sums_stride
                key, end = seen(room, query, first, stop)
                while key < end:
                    keys = min(end - key, blocks.length - key % blocks.length)
                    add(weights + 4 * (key - start), keys, cells, cell_of(blocks, key), sums, chunks)
                    key += keys
            return
        for tile in range(first - first % TILE, stop, TILE):
            lower, upper = max(tile, first), min(tile + TILE, stop)
            row = room.tile + (lower - tile) * room.tile_stride
            widen(cells, blocks, lower, upper, row, room.tile_stride, length)
            query = 0
            while query + GROUP <= count:
                _weigh_four(room, query, tile, start, lower, upper, chunks)
                query += GROUP
            while query < count:
                key, end = seen(room, query, lower, upper)
                _weigh_one(room, query, tile, start, key, end, chunks)
                query += 1

    @inlined
    def compute(
        keys: Cells, values: Cells, blocks: Blocks, own: Queries, heads: Heads, step: Step, room: Room
    ) -> None:
        """Folds cut after cut of what the queries see."""
        count, cut = own.num_queries, own.cut
        first, stop = all_seen(room, count)
        for start in range(first - first % cut, stop, cut):
            lower, upper = max(start, first), min(start + cut, stop)
            score(keys, blocks, room, count, heads.key_length, start, lower, upper)
            weights_of(own, heads, step, room, start, lower, upper)
            weigh(values, blocks, room, count, heads.value_length, start, lower, upper)
            fold_cut(room, count, lower, upper)

    def kernel(
        keys: int,
        key_scales: int,
        key_bytes: int,
        values: int,
        value_scales: int,
        value_bytes: int,
        query: int,
        num_heads: int,
        num_kv_heads: int,
        first_head: int,
        heads_per_kv_head: int,
        key_length: int,
        value_length: int,
        scale: float,
        window: int,
        chunked: int,
        softcap: float,
        slopes: int,
        num_rows: int,
        part_length: int,
        short_cuts: int,
        positions: int,
        slot_starts: int,
        table_starts: int,
        tables: int,
        block_length: int,
        sums: int,
        scales: int,
        scratch: int,
        scratch_bytes: int,
        thread: int,
        num_threads: int,
    ) -> None:
        heads = Heads(num_heads, key_length, value_length, scale, window, chunked, softcap, slopes)
        step = Step(num_rows, part_length, short_cuts, positions, slot_starts, table_starts)
        room = room_of(scratch + thread * scratch_bytes, heads)
        key_cells = Cells(keys, key_scales, key_bytes)
        value_cells = Cells(values, value_scales, value_bytes)
        unit, row, rows = 0, 0, unsigned(num_rows)
        most_rows = max(1, VECTORS // min(heads_per_kv_head, num_heads))
        while row < rows:
            stop, parts = _together(step, row, min(rows, row + most_rows))
            table = tables + 4 * unsigned(table_starts + 4 * row)
            for kv_head in range(num_kv_heads):
                blocks = Blocks(table, num_kv_heads, kv_head, block_length)
                head = max(0, kv_head * heads_per_kv_head - first_head)
                last = min(num_heads, (kv_head + 1) * heads_per_kv_head - first_head)
                while head < last:
                    some = min(VECTORS // (stop - row), last - head)
                    for part in range(parts):
                        if unit % num_threads == thread:
                            count = (stop - row) * some
                            cut, length = cut_of(step, row), part_of(step, row)
                            own = Queries(row, head, some, count, part, length, cut)
                            if begin(own, heads, step, room, query):
                                compute(key_cells, value_cells, blocks, own, heads, step, room)
                            write_part(own, heads, step, room, sums, scales)
                        unit += 1
                    head += some
            row = stop

    return kernel


@inlined
def _together(step: Step, row: int, most: int) -> Any:
    """Returns the row behind those that are computed with one, and how many parts they have."""
    table, cut, last = unsigned(step.table_starts + 4 * row), cut_of(step, row), position_of(step, row)
    stop = row + 1
    while stop < most and unsigned(step.table_starts + 4 * stop) == table and cut_of(step, stop) == cut:
        last = max(last, position_of(step, stop))
        stop += 1
    return stop, last // part_of(step, row) + 1


@inlined
def _weigh_four(room: Room, query: int, tile: int, start: int, first: int, stop: int, chunks: int) -> None:
    """Adds a tile's values to the sums of four queries: those that all see at once, others one by one."""
    lower, upper = first, stop
    for index in range(query, query + GROUP):
        least, end = seen(room, index, first, stop)
        lower, upper = max(lower, least), min(upper, end)
    if lower < upper:
        for index in range(query, query + GROUP):
            least, _ = seen(room, index, first, stop)
            _weigh_one(room, index, tile, start, least, lower, chunks)
        weights = room.scores + 4 * (CUT * query + lower - start)
        values = room.tile + (lower - tile) * room.tile_stride
        sums = room.cut_sums + query * room.sums_stride
        of_four(weights, 4 * CUT, upper - lower, values, room.tile_stride, sums, room.sums_stride, chunks)
    else:
        upper = first
    for index in range(query, query + GROUP):
        least, end = seen(room, index, first, stop)
        _weigh_one(room, index, tile, start, max(least, upper), end, chunks)


@inlined
def _weigh_one(room: Room, query: int, tile: int, start: int, first: int, stop: int, chunks: int) -> None:
    """Adds a tile's values of the keys from `first` up to `stop`, where there are any, to a query's sums."""
    if first < stop:
        weights, sums = (
            room.scores + 4 * (CUT * query + first - start),
            room.cut_sums + query * room.sums_stride,
        )
        floats = Cells(room.tile, 0, room.tile_stride)
        add_floats(weights, stop - first, floats, first - tile, sums, chunks)
