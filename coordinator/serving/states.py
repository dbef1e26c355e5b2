"""The slots of recurrent states: a sequence's own, and snapshots from which others may begin.

A step reads a sequence's state in one slot and leaves the new one in another or in the same: so a snapshot
is a slot that was published and is from then on only read, and nothing is ever copied.
"""

from __future__ import annotations

from tplaunch.coordinator.serving.kv_blocks import Pool
from tplaunch.coordinator.serving.sequence import Sequence

STRIDE = 256  # positions between the snapshots of a long prompt


class States:
    """Keeps a state of each running sequence, and as many snapshots as there are slots beyond."""

    def __init__(self, num_slots: int, max_sequences: int, block_length: int) -> None:
        self.pool = Pool(num_slots)
        self._takes_snapshots = num_slots > max_sequences
        self._block_length = block_length
        self._let_go: list[int] = []  # slots that the step reads, to be released after it
        self._moving: set[Sequence] = set()  # those whose next row needs another slot

    def plan_snapshots(self, sequence: Sequence, branch: int) -> None:
        """Chooses where the sequence's state is kept; branch: where it parts from a text that is cached."""
        if not self._takes_snapshots:
            return
        last = (len(sequence.tokens) - 1) // self._block_length * self._block_length
        stride = -(-STRIDE // self._block_length) * self._block_length
        points = {last, branch, *range(stride, last, stride)}
        sequence.snapshot_at = frozenset(point for point in points if point > sequence.num_computed)

    def cut(self, sequence: Sequence, start: int, stop: int) -> int:
        """Where a run of rows must end, at the latest: where the state between its rows is to be kept."""
        if not self._takes_snapshots or not sequence.snapshot_at:
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
        return -1 if read is None else read, write

    def computed(self, sequence: Sequence) -> None:
        """Keeps the state that the sequence has come to, where it is worth it and there is room."""
        position = sequence.num_computed
        if not self._takes_snapshots or position % self._block_length or sequence.slot is None:
            return
        is_decoding = position >= sequence.num_prompt
        if not is_decoding and position not in sequence.snapshot_at:
            return
        if self.pool.num_available <= len(self._moving):  # each of them needs another slot for its next row
            return
        if is_decoding:
            self._forget(sequence.last_snapshot)
        sequence.last_snapshot = sequence.keys[position // self._block_length - 1] if is_decoding else None
        self.pool.publish(sequence.slot, sequence.keys[position // self._block_length - 1])
        self._moving.add(sequence)

    def _forget(self, key: bytes | None) -> None:
        place = None if key is None else self.pool.find(key)
        if place is not None:
            self.pool.forget(place)

    def finish_step(self) -> None:
        """Lets go of the slots that the step has read."""
        for slot in self._let_go:
            self.pool.release(slot)
        self._let_go.clear()

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
