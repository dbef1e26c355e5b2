"""The block tables of one kind of layers: those that see all positions, or those that see a window."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from tplaunch.coordinator.serving.kv_blocks import Pool
from tplaunch.coordinator.serving.sequence import Held, Sequence


class BlockTables:
    """Gives sequences blocks as they grow. What the ranks must know of it gathers in `changes` and `copies`.

    With a window a sequence holds only the blocks that its next row sees, and those behind them.
    """

    def __init__(self, kind: int, num_blocks: int, block_length: int, window: int = 0) -> None:
        """kind: where a sequence's `held` has its blocks. window: positions; 0 for layers that see all."""
        self.pool = Pool(num_blocks)
        self._kind, self._block_length, self._window = kind, block_length, window
        self.changes: list[int] = []  # seat, index in the table, block; over and over
        self.copies: list[int] = []  # source, destination; over and over

    def first_seen(self, position: int) -> int:
        """Index of the first block that the row at this position sees."""
        if not self._window:
            return 0
        return max(0, position - self._window + 1) // self._block_length

    def num_needed(self, num_positions: int, num_rows: int, begin: int = 0) -> int:
        """Blocks at most of a sequence that begins behind `begin` blocks and takes `num_rows` a step."""
        num_wanted = -(-num_positions // self._block_length) - self.first_seen(begin * self._block_length)
        if self._window:
            # As many neighbouring positions, wherever in a block they begin.
            num_wanted = min(num_wanted, -(-(self._window + num_rows - 2) // self._block_length) + 1)
        return num_wanted

    def num_missing(self, sequence: Sequence, num_positions: int, num_rows: int) -> int:
        """Blocks that a running sequence is still to take to get so far, at least one: it will grow."""
        held = sequence.held[self._kind]
        missing = -(-num_positions // self._block_length) - held.stop
        if self._window:
            missing = min(missing, self.num_needed(num_positions, num_rows) - len(held.blocks))
        return max(1, missing)

    def has_room(
        self, num_positions: int, begin: int, num_rows: int, found: SequenceOf[int | None], spare: int
    ) -> bool:
        """Tells whether a sequence that begins behind `begin` blocks could get as far as `num_positions`.

        It takes at most `num_rows` a step; `found` are the blocks that it would begin with, and `spare` are
        to be left for others.
        """
        first = self.first_seen(begin * self._block_length)
        num_wanted = self.num_needed(num_positions, num_rows, begin)
        if not spare:  # it is alone, and takes fewer rows where that is all that the pool has room for
            num_wanted = min(num_wanted, self.pool.size)
        shared = [block for block in found[first:begin] if block is not None]
        num_kept = sum(not self.pool.num_holders(block) for block in shared)
        return self.pool.num_available - num_kept >= num_wanted - len(shared) + spare

    def reserve(self, sequence: Sequence, num_positions: int) -> int:
        """Gives the sequence blocks for its positions from the next one on; returns for how many it has."""
        held, pool = sequence.held[self._kind], self.pool
        if not held.blocks:
            held.start = self.first_seen(sequence.num_computed)
        if sequence.num_computed < num_positions and not self._make_own(sequence, held):
            return sequence.num_computed
        while held.stop * self._block_length < num_positions:
            block = pool.take()
            if block is None:
                break
            self._append(sequence, held, block)
        return min(num_positions, held.stop * self._block_length)

    def _make_own(self, sequence: Sequence, held: Held) -> bool:
        """Copies the block that the next row is written to where another sequence holds it, too."""
        index = sequence.num_computed // self._block_length - held.start
        if index >= len(held.blocks) or self.pool.num_holders(held.blocks[index]) == 1:
            return True
        block = self.pool.take()
        if block is None:
            return False
        self.copies += (held.blocks[index], block)
        self.pool.release(held.blocks[index])
        held.blocks[index] = block
        self.changes += (self._seat(sequence), held.start + index, block)
        return True

    def _append(self, sequence: Sequence, held: Held, block: int) -> None:
        self.changes += (self._seat(sequence), held.stop, block)
        held.blocks.append(block)

    def _seat(self, sequence: Sequence) -> int:
        assert sequence.seat is not None, "blocks for a sequence without a seat"
        return sequence.seat

    def publish(self, sequence: Sequence, first: int, stop: int) -> None:
        """Lets the blocks first .. stop - 1 of the table be found; they have been computed."""
        held = sequence.held[self._kind]
        for index in range(max(first, held.start), min(stop, held.stop)):
            self.pool.publish(held.blocks[index - held.start], sequence.keys[index])

    def trim(self, sequence: Sequence) -> None:
        """Lets go of the blocks that no later row sees."""
        held = sequence.held[self._kind]
        num_passed = self.first_seen(sequence.num_computed) - held.start
        if num_passed > 0:
            for block in held.blocks[:num_passed]:
                self.pool.release(block)
            del held.blocks[:num_passed]
            held.start += num_passed

    def found(self, keys: SequenceOf[bytes]) -> list[int | None]:
        """The block of each key, as far as it makes sense to look: None where it is not there."""
        blocks: list[int | None] = []
        for key in keys:
            blocks.append(self.pool.find(key))
            if blocks[-1] is None and not self._window:
                break
        return blocks

    def can_begin(self, found: SequenceOf[int | None], num_blocks: int) -> bool:
        """Tells whether the row behind so many blocks would find all that it sees."""
        if num_blocks > len(found):
            return False
        return None not in found[self.first_seen(num_blocks * self._block_length) : num_blocks]

    def adopt(self, sequence: Sequence, found: SequenceOf[int | None], num_blocks: int) -> None:
        """Begins the sequence's table with blocks that were found."""
        held = sequence.held[self._kind]
        held.start = self.first_seen(num_blocks * self._block_length)
        for block in found[held.start : num_blocks]:
            assert block is not None, "a block that was not found"
            self.pool.share(block)
            self._append(sequence, held, block)

    def fork(self, sequence: Sequence, child: Sequence) -> None:
        """Begins the child's table with all blocks of another sequence."""
        held, of_child = sequence.held[self._kind], child.held[self._kind]
        of_child.start = held.start
        for block in held.blocks:
            self.pool.share(block)
            self._append(child, of_child, block)

    def release(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Lets go of all blocks, the last first: the beginnings of texts are wanted again most often.

        forget: they hold what nobody may find again.
        """
        held = sequence.held[self._kind]
        for block in reversed(held.blocks):
            if forget:
                self.pool.forget(block)
            self.pool.release(block)
        held.blocks.clear()
        held.start = 0

    def take_changes(self) -> tuple[list[int], list[int]]:
        """The changes and the copies since the last call."""
        taken = self.changes, self.copies
        self.changes, self.copies = [], []
        return taken
