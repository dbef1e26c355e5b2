"""Memory of sequences on the devices: keys and values in blocks, recurrent states in slots, a seat each.

A sequence that begins like an earlier one begins with what that one computed, as long as it is still there:
blocks of all positions before, or of the window before, and a snapshot of the state. Only whole blocks are
found, and what logits are asked for is always computed: the last token at least.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.serving.block_tables import BlockTables
from tplaunch.coordinator.serving.kv_blocks import ChainedKeys, Pool
from tplaunch.coordinator.serving.sequence import Held, ScheduledRows, Sequence
from tplaunch.coordinator.serving.states import States
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError


@dataclass(frozen=True)
class LayerKinds:
    """The kinds of memory that a model's layers keep of a sequence."""

    sees_all: bool = True  # some attend to all positions
    window: int = 0  # positions that the others see at most; 0 where there are none
    has_states: bool = False

    @staticmethod
    def of(spec: ModelSpec) -> LayerKinds:
        sees_all = any(layer.window is None for layer in spec.attentions)
        return LayerKinds(sees_all, spec.longest_window, spec.is_recurrent)


class KVMemory:
    """Admits sequences to seats, lets them grow, keeps what may be wanted again, and takes all of it back."""

    def __init__(self, limits: Limits, kinds: LayerKinds, tells_prompts_apart: bool = False) -> None:
        """tells_prompts_apart: ranks compute rows of prompts in another arithmetic; see ChainedKeys."""
        self._limits, self.tells_prompts_apart = limits, tells_prompts_apart
        length = limits.block_length
        tables: list[BlockTables] = []
        self.all_positions: BlockTables | None = None  # of layers that see all positions
        self.windowed: BlockTables | None = None
        if kinds.sees_all:
            self.all_positions = BlockTables(len(tables), limits.num_blocks, length)
            tables.append(self.all_positions)
        if kinds.window:
            self.windowed = BlockTables(len(tables), limits.num_window_blocks, length, kinds.window)
            tables.append(self.windowed)
        self.tables: SequenceOf[BlockTables] = tables
        for table in tables:
            needed = table.num_needed(limits.context_length, num_rows=1)
            if table.pool.size < needed:
                raise PlanError(f"a KV cache of {table.pool.size} blocks, where one sequence needs {needed}")
        self._states = None
        if kinds.has_states:
            self._states = States(limits.num_slots, limits.max_sequences, length)
        self._keys = ChainedKeys(length, secrets.token_bytes(16), tells_prompts_apart)
        self._free_seats = list(range(limits.max_sequences))[::-1]

    @property
    def pools(self) -> list[Pool]:
        """The pools of blocks, and of slots where the model has states."""
        pools = [table.pool for table in self.tables]
        return pools if self._states is None else [*pools, self._states.pool]

    @property
    def num_free_seats(self) -> int:
        return len(self._free_seats)

    def admit(self, sequence: Sequence, running: SequenceOf[Sequence]) -> bool:
        """Gives the sequence a seat and what is cached of its text, if the rest finds room beside others.

        running: all that hold a seat. What they are still to take of their texts is left for them.
        """
        if not self._free_seats:
            return False
        found, num_blocks = self._match(sequence)
        rows = self._limits.max_rows
        for table, blocks in zip(self.tables, found, strict=True):
            spare = sum(table.num_missing(one, self._num_wanted(one), rows) for one in running)
            if not table.has_room(self._num_wanted(sequence), num_blocks, rows, blocks, spare):
                return False
        sequence.seat = self._free_seats.pop()
        sequence.held = tuple(Held() for _ in self.tables)
        for table, blocks in zip(self.tables, found, strict=True):
            table.adopt(sequence, blocks, num_blocks)
        if self._states is not None and num_blocks:
            self._states.adopt(sequence, sequence.keys[num_blocks - 1])
        sequence.num_computed = sequence.assumed or num_blocks * self._limits.block_length
        sequence.num_cached = num_blocks * self._limits.block_length
        if self._states is not None:
            self._states.plan_snapshots(sequence)
        return True

    def _num_wanted(self, sequence: Sequence) -> int:
        """Positions of a sequence with its next token."""
        return min(len(sequence.tokens) + 1, self._limits.context_length)

    def _match(self, sequence: Sequence) -> tuple[list[SequenceOf[int | None]], int]:
        """The cached blocks of its text in each table, and how many of them a sequence can begin with."""
        most = min(len(sequence.tokens) - 1, sequence.first_logits) // self._limits.block_length
        most = most if sequence.reads_cache else 0
        self._keys.extend(sequence.keys, sequence.tokens, most, sequence.num_prompt)
        found: list[SequenceOf[int | None]] = [table.found(sequence.keys[:most]) for table in self.tables]
        for num_blocks in range(most, 0, -1):
            if all(
                table.can_begin(blocks, num_blocks) for table, blocks in zip(self.tables, found, strict=True)
            ) and (self._states is None or self._states.has(sequence.keys[num_blocks - 1])):
                return found, num_blocks
        return found, 0

    def cut(self, sequence: Sequence, num_positions: int) -> int:
        """Returns up to which position the next rows may go: some must end where a state is to be kept."""
        if self._states is None:
            return num_positions
        return self._states.cut(sequence, sequence.num_computed, num_positions)

    def reserve(self, sequence: Sequence, num_positions: int) -> int:
        """Gives the sequence blocks for its next rows; returns up to which position it can be computed."""
        stop = self.cut(sequence, num_positions)
        for table in self.tables:
            stop = table.reserve(sequence, stop)
        return stop

    def slots(self, sequence: Sequence) -> tuple[int, int] | None:
        """The state slots that the next rows read and write, -1 without; None where none is free now."""
        return (-1, -1) if self._states is None else self._states.slots(sequence)

    def computed(self, runs: SequenceOf[ScheduledRows]) -> None:
        """Takes note of a step: what is complete can be found, and what no row will see is let go."""
        length = self._limits.block_length
        for run in runs:
            sequence = run.sequence
            sequence.num_computed = stop = run.start + run.length
            if run.start // length == stop // length:
                continue
            if sequence.writes_cache:
                self._keep(sequence, run.start // length, stop // length)
            for table in self.tables:
                table.trim(sequence)
        if self._states is not None:
            self._states.finish_step()

    def _keep(self, sequence: Sequence, first: int, stop: int) -> None:
        """Lets the blocks first .. stop - 1 be found, and the state where it is worth it."""
        self._keys.extend(sequence.keys, sequence.tokens, stop, sequence.num_prompt)
        for table in self.tables:
            table.publish(sequence, first, stop)
        if self._states is not None:
            self._states.computed(sequence, first, stop)

    def take_changes(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Changes of both block tables, and copies of blocks of both kinds, since the last call."""
        changes, copies = self.all_positions.take_changes() if self.all_positions else ([], [])
        window_changes, window_copies = self.windowed.take_changes() if self.windowed else ([], [])
        return changes, window_changes, copies, window_copies

    def fork(self, sequence: Sequence, child: Sequence) -> bool:
        """Seats the child behind the same computed tokens; False where there is no seat."""
        if not self._free_seats or (self._states is not None and not self._states.pool.num_available):
            return False
        child.seat = self._free_seats.pop()
        child.held = tuple(Held() for _ in self.tables)
        child.num_computed, child.num_cached = sequence.num_computed, sequence.num_cached
        child.keys = list(sequence.keys)
        for table in self.tables:
            table.fork(sequence, child)
        if self._states is not None:
            self._states.fork(sequence, child)
        return True

    def release(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Takes everything back. forget: nothing that it computed may be found again."""
        if sequence.seat is None:
            return
        for table in self.tables:
            table.release(sequence, forget=forget)
        if self._states is not None:
            self._states.release(sequence)
        self._free_seats.append(sequence.seat)
        sequence.seat, sequence.num_computed = None, 0
