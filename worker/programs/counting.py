"""Counts what a step asks of a device and of the links around it, from the program as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tplaunch.collectives.arena import rank_slice
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.exchange import WIRE_BYTES, MovePartials
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.latent import HeadProducts
from tplaunch.worker.programs.moving import moves
from tplaunch.worker.programs.program import Phase, Program, Segment, exchange_of
from tplaunch.worker.programs.work import pieces

EXPERT_TILE = 64  # pairs of an expert that a card multiplies at once: shaders/expert_job.slang
LOAD_BYTES = 16  # of a lane's widest load


@dataclass(frozen=True)
class StepCounts:
    """A rank's part of a step. Bytes between device and host are those of its partial sums."""

    dispatches: int
    submissions: int
    host_waits: int  # for the device, in the middle of the step or at its end
    all_reduces: int
    sent_bytes: int  # from the device into memory that all ranks see, in an all-reduce of the longest rows
    taken_bytes: int  # from there
    read_bytes: int  # of weights, keys and values, by the device from its own memory

    @property
    def loads(self) -> int:
        """Loads of 16 bytes that read these."""
        return -(-self.read_bytes // LOAD_BYTES)


def count(
    program: Program,
    num_ranks: int,
    row_length: int,
    num_keys: int,
    kv_type: str,
    budget: float = math.inf,
    rank: int = 0,
    tile_rows: int = 0,
) -> StepCounts:
    """Counts a step with all rows of the program, each of a sequence of so many keys.

    row_length: of the residual stream. budget: operations of a submission, see work.py. rank: among those
    that all-reduce; their slices of a sum may differ by 32 numbers. tile_rows: see read_bytes().
    """
    ops = [op for segment in program.segments for op in segment.ops]
    sent, taken = _exchanged_bytes(program, rank, num_ranks, row_length)
    return StepCounts(
        dispatches=len(ops),
        submissions=sum(len(pieces(segment, program, num_keys, budget)) for segment in program.segments),
        host_waits=len(program.segments),
        all_reduces=program.num_all_reduces + program.num_gathers,
        sent_bytes=sent,
        taken_bytes=taken,
        read_bytes=sum(read_bytes(op, program, num_keys, kv_type, tile_rows) for op in ops),
    )


def read_bytes(op: Op, program: Program, num_keys: int, kv_type: str, tile_rows: int = 0) -> int:
    """Bytes of weights, keys and values that an op reads, keys and values for each row.

    tile_rows: rows of a prompt for which weights are read once, as many of an expert's; 0 where a cache keeps
    them for all rows.
    """
    if isinstance(op, MatMul | HeadProducts):
        of_logits = isinstance(op, MatMul) and op.rows == "logit_rows"
        passes = _passes(program.logit_rows if of_logits else program.rows, tile_rows)
        return passes * FORMATS[op.matrix.type].nbytes(op.matrix.rows, op.matrix.columns)
    if isinstance(op, ExpertMatMul):
        products, num_pairs = op.columns * (2 if op.gated else 1), op.held.used * program.rows
        num_experts = min(op.held.count, num_pairs)
        passes = _passes(-(-num_pairs // max(1, num_experts)), min(tile_rows, EXPERT_TILE))
        return passes * num_experts * FORMATS[op.matrix.type].nbytes(products, op.matrix.columns)
    if isinstance(op, Attention):
        seen = min(num_keys, op.window) if op.window else num_keys
        lengths = [op.key_length] if op.value_in_key else [op.key_length, op.value_length]
        num_cells = program.rows * seen * op.num_kv_heads
        return sum(KV_TYPES[kv_type].nbytes(num_cells, length) for length in lengths)
    return 0


def _passes(rows: int, tile_rows: int) -> int:
    """Counts how often so many rows read a matrix; once also for none, which a program has no rows for."""
    return max(1, -(-rows // tile_rows)) if tile_rows else 1


def _exchanged_bytes(program: Program, rank: int, num_ranks: int, row_length: int) -> tuple[int, int]:
    """Bytes that a device sends and takes in its largest all-reduce."""
    if program.has_moves:
        return max(_moved_bytes(program, rank, num_ranks, row_length), key=sum)
    sizes = [_segment_bytes(segment, program.rows, num_ranks, row_length) for segment in program.segments]
    exchanges = (exchange_of(op) for segment in program.segments for op in segment.ops)
    gathers = [gather for gather in exchanges if gather is not None]
    words = [8 * program.rows * (op.row_length or row_length) for op in gathers]
    sizes += [(nbytes, (num_ranks - 1) * nbytes) for nbytes in words]
    return max(sizes, key=sum, default=(0, 0))


def _segment_bytes(segment: Segment, rows: int, num_ranks: int, row_length: int) -> tuple[int, int]:
    """One-shot a device takes what all ranks sent, its own too; in two phases a slice of it, and the sum."""
    if segment.parity is None:
        return 0, 0
    nbytes = 4 * segment.num_elements(rows, row_length)
    if segment.phase is Phase.ONE_SHOT:
        return nbytes, num_ranks * nbytes
    if segment.phase is Phase.HOSTS:
        return nbytes, nbytes
    return nbytes + nbytes // num_ranks, 2 * nbytes


def _moved_bytes(program: Program, rank: int, num_ranks: int, row_length: int) -> list[tuple[int, int]]:
    """The same of every all-reduce of a program that moves its partial sums."""
    sizes, sent, taken = [], 0, 0
    for op in moves(program):
        nbytes = _bytes_of_move(op, program.rows * (op.row_length or row_length), rank, num_ranks)
        sent, taken = sent + nbytes * op.sent, taken + nbytes * (not op.sent)
        if not op.sent and op.span != "slice":  # which another phase follows
            sizes.append((sent, taken))
            sent, taken = 0, 0
    return sizes


def _bytes_of_move(op: MovePartials, num_elements: int, rank: int, num_ranks: int) -> int:
    own = rank_slice(rank, num_ranks, num_elements)
    in_slice: int = own.stop - own.start
    elements = {"all": num_elements, "slice": in_slice, "rest": num_elements - in_slice}[op.span]
    slots = {"own": 1, "peers": num_ranks - 1, "all": num_ranks, "sum": 1}[op.slots]
    return WIRE_BYTES[op.wire] * elements * slots


def least_bytes(num_elements: int, num_ranks: int, two_phase: bool, wire: str = "f32") -> tuple[float, float]:
    """Returns the fewest bytes that a rank can send and take to add up so many numbers through shared memory.

    One-shot it sends its own and takes its peers'. In two phases it takes its slice of theirs only, and of
    the sum all but that; sums are float32, whatever the wire. All ranks' slices count as equally long.
    """
    own, peers = num_elements / num_ranks, num_ranks - 1
    if not two_phase:
        return WIRE_BYTES[wire] * num_elements, WIRE_BYTES[wire] * num_elements * peers
    sent = WIRE_BYTES[wire] * own * peers + WIRE_BYTES["f32"] * own
    return sent, (WIRE_BYTES[wire] + WIRE_BYTES["f32"]) * own * peers
