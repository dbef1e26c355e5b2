"""The slots of recurrent states: a sequence's own, and snapshots from which others may begin.

A step reads a sequence's state in one slot and leaves the new one in another or in the same: so a snapshot
is a slot that was published and is from then on only read, and nothing is ever copied.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

from tplaunch.coordinator.serving.kv_blocks import Pool
from tplaunch.coordinator.serving.sequence import Sequence

STRIDE = 256  # positions between the snapshots of a long prompt
MAX_SEEN = 1 << 16  # blocks of earlier texts whose keys are remembered


class States:
    """Keeps a state of each running sequence, and as many snapshots as there are slots beyond."""

    def __init__(self, num_slots: int, max_sequences: int, block_length: int) -> None:
        self.pool = Pool(num_slots)
        self._takes_snapshots = num_slots > max_sequences
        self._block_length = block_length
        self._seen: OrderedDict[bytes, None] = OrderedDict()  # keys of blocks, the latest last
        self._let_go: list[int] = []  # slots that the step reads, to be released after it
        self._moving: set[Sequence] = set()  # those whose next row needs another slot

    def plan_snapshots(self, sequence: Sequence) -> None:
        """Chooses where the sequence's state is kept: also where it parts from an earlier text."""
        if not self._takes_snapshots:
            return
        seen = sum(1 for _ in itertools.takewhile(self._seen.__contains__, sequence.keys))
        branch = seen * self._block_length
        last = (len(sequence.tokens) - 1) // self._block_length * self._block_length
        stride = -(-STRIDE // self._block_length) * self._block_length
        read = sequence.first_logits // self._block_length * self._block_length  # others may read from there
        points = {last, branch, read, *range(stride, last, stride)}
        sequence.snapshot_at = frozenset(point for point in points if point > sequence.num_computed)

    def cut(self, sequence: Sequence, start: int, stop: int) -> int:
        """Returns where rows must end, at the latest: where the state between them is to be kept."""
        if stop == start + 1 or not self._takes_snapshots:  # a row that decodes, above all
            return stop
        return min((point for point in sequence.snapshot_at if start < point < stop), default=stop)

    def slots(self, sequence: Sequence) -> tuple[int, int] | None:
        """The slots that the sequence's next rows read and write; None where none is free just now."""
        pool, read = self.pool, sequence.slot
        if read is not None and not pool.is_fixed(read):
            return read, read
        write = pool.take()
        if write is None:
            return None
        if read is not None:
            self._let_go.append(read)
        sequence.slot = write
        self._moving.discard(sequence)
        if read is None:  # positions that are assumed to be computed have left any state
            return (write if sequence.assumed else -1), write
        return read, write

    def computed(self, sequence: Sequence, first: int, stop: int) -> None:
        """Keeps the state that the sequence has come to, where it is worth it and there is room.

        It has computed the blocks first .. stop - 1 of its text.
        """
        if not self._takes_snapshots:
            return
        self._note(sequence.keys[first:stop])
        position = sequence.num_computed
        if position % self._block_length or sequence.slot is None:
            return
        is_decoding = position >= sequence.num_prompt
        if not is_decoding and position not in sequence.snapshot_at:
            return
        if self.pool.num_available <= len(self._moving):  # each of them needs another slot for its next row
            return
        key = sequence.keys[position // self._block_length - 1]
        if is_decoding:
            self._forget(sequence.last_snapshot)
        sequence.last_snapshot = key if is_decoding else None
        self.pool.publish(sequence.slot, key)
        self._moving.add(sequence)

    def _note(self, keys: list[bytes]) -> None:
        for key in keys:
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _forget(self, key: bytes | None) -> None:
        place = None if key is None else self.pool.find(key)
        if place is not None:
            self.pool.forget(place)

    def finish_step(self) -> None:
        """Lets go of the slots that the step has read."""
        for slot in self._let_go:
            self.pool.release(slot)
        self._let_go.clear()

    def has(self, key: bytes) -> bool:
        """Tells whether there is a snapshot behind the block with this key."""
        return self.pool.find(key) is not None

    def adopt(self, sequence: Sequence, key: bytes) -> None:
        """Begins with the snapshot of this key, which is there."""
        place = self.pool.find(key)
        assert place is not None, "a snapshot that is not there"
        self.pool.share(place)
        sequence.slot = place
        self._moving.add(sequence)

    def fork(self, sequence: Sequence, child: Sequence) -> None:
        """Begins with another sequence's state; each leaves it as it is when it goes on."""
        assert sequence.slot is not None, "a fork of a sequence without a state"
        self.pool.share(sequence.slot)
        child.slot = sequence.slot
        self._moving |= {sequence, child}

    def release(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self.pool.release(sequence.slot)
        sequence.slot = None
        self._moving.discard(sequence)
