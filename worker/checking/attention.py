"""Checks of attention: positions beyond a chunk and beyond what any workgroup walks at once, several heads
of a KV head, heads as long as the model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.buffers.cuts import CHUNK, CUT, ShortCuts, parts_of
from tplaunch.worker.checking.case import Arrays, Case, limits_for, random_cache, random_floats
from tplaunch.worker.checking.check import BOUND, FLOAT16_BOUND, Check
from tplaunch.worker.checking.heads import MAX_HEADS
from tplaunch.worker.checking.rows import NUM_ROWS, OFFSET, ROWS
from tplaunch.worker.numpy.attention import EMPTY_MAXIMUM, combined
from tplaunch.worker.ops.attention import Attention, AttentionCombine

NUM_KEYS, OTHER_KEYS = 650, 70  # of the sequence with most rows, and of another one
MAX_GROUP, MAX_WINDOW = 8, 300  # heads of a KV head, and keys that a row sees
BLOCK_LENGTH = 32
PART_LENGTH = 2 * CUT  # so that a workgroup folds, and another one has keys, too
SHORT_CUTS = ShortCuts(half=NUM_KEYS, quarter=OTHER_KEYS)


def attention(op: Attention) -> Attention:
    """The same op, small. A rank's heads may begin and end within a group."""
    finish = op.finish
    group = min(op.heads_per_kv_head, MAX_GROUP)
    first = min(op.first_head, group - 1)
    num_heads = min(op.num_heads, 2 * group - first)
    return replace(
        op,
        key_cache="keys",
        value_cache="keys" if op.value_in_key else "values",
        num_heads=num_heads,
        num_kv_heads=-(-(first + num_heads) // group),
        first_head=first,
        heads_per_kv_head=group,
        window=min(op.window, MAX_WINDOW),
        scale=op.key_length**-0.5,
        finish=finish and replace(attention_combine(finish), num_heads=num_heads),
    )


def check_attention(op: Attention, kv_type: str, rows: int) -> Check:
    """One row, or the last rows of a long sequence with one of a short one; blocks lie in any order."""
    rng = np.random.default_rng(10)
    num_rows = min(rows, NUM_ROWS)
    num_long = max(1, num_rows - 1)
    positions = (*range(NUM_KEYS - num_long, NUM_KEYS), *[OTHER_KEYS - 1] * (num_rows - num_long))
    blocks = [-(-count // BLOCK_LENGTH) for count in (NUM_KEYS, OTHER_KEYS)]
    num_blocks = sum(blocks)
    cells = num_blocks * op.num_kv_heads * BLOCK_LENGTH
    lengths = {"keys": op.key_length} | ({} if op.value_in_key else {"values": op.value_length})
    part_length = CHUNK if op.finish else PART_LENGTH
    parts = parts_of(np.array(positions), part_length)
    num_slots = rows * parts.most
    arrays: Arrays = {
        "query": 2 * random_floats(rng, rows, op.num_heads * op.key_length),
        **{name: random_cache(rng, kv_type, cells, length) for name, length in lengths.items()},
        # What an older step left: no part may pick it up.
        "attention_sums": np.full((num_slots, op.num_heads * op.value_length), np.nan, np.float32),
        "attention_scales": np.full((num_slots, op.num_heads * 2), 1e9, np.float32),
        "attended": random_floats(rng, rows, padded(OFFSET + op.num_heads * op.value_length)),
        "sinks": random_floats(rng, op.num_heads),
    }
    tables = tuple(rng.permutation(num_blocks))
    limits = limits_for(
        context_length=NUM_KEYS,
        max_sequences=len(blocks),
        num_blocks=num_blocks,
        num_window_blocks=num_blocks,
        block_length=BLOCK_LENGTH,
        max_rows=rows,
        kv_type=kv_type,
    )
    case = Case(
        limits,
        (op,),
        arrays,
        num_rows,
        rows,
        positions=positions,
        table_starts=(*[0] * num_long, *[blocks[0]] * (num_rows - num_long)),
        tables=tables[::-1] if op.windowed else tables,
        window_tables=tables if op.windowed else tables[::-1],
        part_length=part_length,
        short_cuts=SHORT_CUTS,
    )

    def read(results: Arrays) -> Arrays:
        """Parts put together: what each of them left may differ by a factor."""
        if op.finish:
            return {"attended": results["attended"]}
        used = parts.total
        sums = results["attention_sums"][:used].reshape(used, op.num_heads, op.value_length)
        scales = results["attention_scales"][:used].reshape(used, op.num_heads, 2)
        return {"attended": combined(sums, scales, parts.starts)}

    return Check(op, case, FLOAT16_BOUND if op.activations == "f16" else BOUND, read=read)


def attention_combine(op: AttentionCombine) -> AttentionCombine:
    """The same op, small."""
    return replace(
        op,
        num_heads=min(op.num_heads, MAX_HEADS),
        output_offset=OFFSET,
        sinks=op.sinks and "sinks",
        output="attended",
    )


def check_attention_combine(op: AttentionCombine) -> Check:
    """Rows of several parts, some of them without keys: what lies there is an older step's."""
    rng = np.random.default_rng(11)
    positions = tuple(range(0, ROWS * CUT, CUT))
    num_slots = sum(range(ROWS + 1))
    sums = random_floats(rng, num_slots, op.num_heads, op.value_length)
    scales = np.stack((random_floats(rng, *sums.shape[:2]), rng.uniform(1, 9, sums.shape[:2])), axis=2)
    empty = slice(2, None, 3)  # the last one of the second row, the middle one of the third
    sums[empty] = np.nan
    scales[empty] = np.array((EMPTY_MAXIMUM, 0))
    arrays: Arrays = {
        "attention_sums": sums.reshape(num_slots, -1),
        "attention_scales": scales.astype(np.float32).reshape(num_slots, -1),
        "attended": random_floats(rng, ROWS, padded(OFFSET + op.num_heads * op.value_length)),
        "sinks": random_floats(rng, op.num_heads),
        "qkv": 2 * random_floats(rng, ROWS, 2 * op.num_heads * op.value_length + 3),
    }
    case = Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, positions=positions)
    return Check(op, case)
