"""Counts the blocks and state slots of some sequences. context_fit.py finds out if they fit."""

from __future__ import annotations

BLOCK_LENGTH = 32  # positions: the context is a multiple of it where memory is the limit
FURTHER_POSITIONS = 1024  # that each sequence but the first has room for, where they share no beginning
MIN_SNAPSHOTS = 2  # of recurrent states: what a chat's next turn goes on from, and the one before it


def blocks_for(num_positions: int) -> int:
    """Blocks that hold so many positions of one sequence."""
    return -(-num_positions // BLOCK_LENGTH)


def full_blocks(context: int, further: int) -> int:
    """Blocks of layers that see all keys: of one whole context, and of `further` sequences."""
    return blocks_for(context) + further * blocks_for(min(context, FURTHER_POSITIONS))


def window_blocks(window: int, context: int, further: int, max_rows: int) -> int:
    """Blocks of layers with a window, for 1 + `further` sequences.

    Each has its window and as much again, so that the end of its prompt stays while it is answered, and a
    block more, for a window seldom begins with a block. A step's rows come to that, whosever they are. It is
    never more than layers without a window would have.
    """
    each = blocks_for(2 * window) + 1
    return min(full_blocks(context, further), (1 + further) * each + blocks_for(max_rows) + 1)


def most_snapshots(context: int, further: int, num_sequences: int) -> int:
    """One for each end of a block, and two for each sequence: more would never be used."""
    return full_blocks(context, further) + 2 * num_sequences
