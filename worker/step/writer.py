"""Checks a step's numbers and puts them where the kernels read them: integers, embeddings, rope table."""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.candidates import check_wanted
from tplaunch.coordinator.messages import Load, Step
from tplaunch.worker.buffers.cuts import CUT, NO_SHORT_CUTS, QUARTER, attention_slots, fitting_parts
from tplaunch.worker.buffers.step import (
    ATTENTION_VECTORS,
    StepLayout,
    StepView,
    attention_groups,
    attention_vectors,
)
from tplaunch.worker.device import CuttingDevice, Device
from tplaunch.worker.step.checks import Ints, StepError, check_copies, check_range, columns_of
from tplaunch.worker.step.embeddings import Embeddings
from tplaunch.worker.step.rope_tables import RopeTables, temperatures
from tplaunch.worker.step.runs import RunReader, Runs
from tplaunch.worker.step.tables import BlockTables, Read
from tplaunch.worker.weights.source import WeightSource

Floats = npt.NDArray[np.float32]

ROPES_AHEAD = 64  # rows that are worked out together: for one it takes about as long


class StepWriter:
    """Fills the UPLOAD buffers of a device for one step after another."""

    def __init__(self, device: Device, weights: WeightSource, load: Load) -> None:
        self._spec, self._limits = load.spec, load.limits
        self._heads = _most_heads(load)
        self._vectors = min(
            (attention_vectors(layer.key_length, layer.value_length) for layer in load.spec.attentions),
            default=ATTENTION_VECTORS,
        )
        tensors = {tensor.name: tensor for tensor in load.tensors}
        self._embeddings = Embeddings(weights, load.spec, tensors) if load.share.begins else None
        self._ropes = RopeTables(load.spec.ropes, load.limits.context_length, weights, tensors)
        self._step = StepView(device.view("step").view(np.uint32), StepLayout(load.limits))
        self._tables = BlockTables(self._step.tables, load.limits, load.limits.num_blocks)
        self._window_tables = BlockTables(
            self._step.window_tables, load.limits, load.limits.num_window_blocks
        )
        self._runs = RunReader(load.limits)
        windows = {attention.window for attention in load.spec.attentions}
        self._has_full_layers = None in windows
        self._windows = [window for window in windows if window is not None]
        self._rope = device.view("rope").view(np.float32).reshape(load.limits.max_rows, -1)
        self._embedding = device.view("embedding").view(np.float32).reshape(load.limits.max_rows, -1)
        self._attention_slots = attention_slots(load.limits)
        self._short_cuts = NO_SHORT_CUTS
        if isinstance(device, CuttingDevice):
            lengths = {(layer.key_length, layer.value_length) for layer in load.spec.attentions}
            groups = math.prod(attention_groups(1, *self._heads, 1, self._vectors))
            self._short_cuts = device.short_cuts(lengths, groups)
        self._num_steps = 0
        self._positions: Ints = np.zeros(0, np.int32)  # of the step that was written last
        self._num_alike = 0  # steps behind it, that differ by nothing but these
        self._next_ropes: list[Floats] = []  # of some of them, the next one last
        # Blocks, and parts of keys, begin at its multiples.
        self._unit = math.gcd(load.limits.block_length, CUT // QUARTER)
        self.in_one_part = False  # whether each row's keys of the step are one part

    def write(self, step: Step) -> None:
        """Raises StepError for a step that does not fit, before anything is written.

        A stage behind the first one gets its rows of the embedding buffer from the one before.
        """
        runs = self._check(step)
        self._num_steps = step.number
        num_rows, view = step.token_ids.size, self._step
        parts = fitting_parts(runs.positions, self._attention_slots, self._short_cuts)
        self.in_one_part = parts.most == 1
        groups = attention_groups(num_rows, *self._heads, parts.most, self._vectors)
        num_states = runs.seats.size if self._limits.num_slots else 0
        short = self._short_cuts.half, self._short_cuts.quarter
        view.header[:] = (num_rows, step.logit_rows.size, parts.length, num_states, *groups, *short)
        view.slot_starts[:num_rows] = parts.starts
        view.positions[:num_rows] = runs.positions
        view.table_starts[:num_rows] = runs.row_seats * self._limits.blocks_per_seat
        view.logit_rows[: step.logit_rows.size] = step.logit_rows
        self._tables.write(step.tables.reshape(-1, 3))
        self._window_tables.write(step.window_tables.reshape(-1, 3))
        if num_states:
            self._write_states(runs)
        self._positions, self._num_alike = runs.positions, self._count_alike(runs)
        self._next_ropes.clear()
        self._write_rows(step.token_ids, self._ropes_of(runs.positions))

    def write_next(self, step: Step) -> None:
        """Does what write() does, for the step that follows from the last one: coordinator/next_step.py.

        Until a row comes to a new block or part of keys only positions change, and were checked before.
        """
        if not self._num_alike:
            self.write(step)
            return
        self._check_number_and_tokens(step)
        num_rows = step.token_ids.size
        self._positions = self._positions + 1
        if not self._next_ropes:
            count = min(self._num_alike, max(1, ROPES_AHEAD // num_rows))
            positions = self._positions + np.arange(count, dtype=np.int32)[:, None]
            ropes = self._ropes_of(positions.reshape(-1))
            self._next_ropes = [*ropes.reshape(count, num_rows, ropes.shape[1])[::-1]]
        self._num_steps, self._num_alike = step.number, self._num_alike - 1
        self._step.positions[:num_rows] = self._positions
        self._write_rows(step.token_ids, self._next_ropes.pop())

    def _count_alike(self, runs: Runs) -> int:
        """Counts the steps behind one of these runs that differ by nothing but their positions and tokens."""
        if runs.seats.size != runs.positions.size:
            return 0
        if self._limits.num_slots and (runs.read_slots != runs.write_slots).any():
            return 0
        stops, unit = runs.stop_positions, self._unit
        return min(min(-stop % unit, self._limits.context_length - stop) for stop in stops)

    def _write_rows(self, token_ids: Ints, ropes: Floats) -> None:
        num_rows = token_ids.size
        if self._embeddings is not None:
            rows = self._embeddings.rows(token_ids, self._positions)
            self._embedding[:num_rows, : self._spec.embedding_length] = rows
        self._rope[:num_rows] = ropes

    def _ropes_of(self, positions: Ints) -> Floats:
        """The rows of the rope buffer for these positions."""
        rows = np.empty((positions.size, self._rope.shape[1]), np.float32)
        ropes_end = rows.shape[1] - (self._spec.temperature is not None)
        self._ropes.write(positions, rows[:, :ropes_end])
        if self._spec.temperature is not None:
            rows[:, -1] = temperatures(self._spec.temperature, positions)
        return rows

    def _write_states(self, runs: Runs) -> None:
        view, num_runs = self._step, runs.seats.size
        view.run_starts[: num_runs + 1] = runs.first_rows
        view.read_slots[:num_runs] = runs.read_slots.view(np.uint32)  # -1 is NO_SLOT
        view.write_slots[:num_runs] = runs.write_slots

    def _check(self, step: Step) -> Runs:
        limits, num_rows = self._limits, step.token_ids.size
        self._check_number_and_tokens(step)
        if not 1 <= num_rows <= limits.max_rows or step.logit_rows.size > limits.max_logit_rows:
            raise StepError(
                f"step {step.number} has {num_rows} rows and {step.logit_rows.size} logit rows;"
                f" 1 to {limits.max_rows} and at most {limits.max_logit_rows} are possible"
            )
        check_range("logit row", step.logit_rows, num_rows)
        try:
            check_wanted(step.wanted, step.logit_rows.size, self._spec.vocabulary_size)
        except ValueError as error:
            raise StepError(f"step {step.number}: {error}") from error
        runs = self._runs.read(step)
        changes = columns_of("block tables", step.tables, 3)
        window_changes = columns_of("window block tables", step.window_tables, 3)
        self._tables.check(changes)
        self._window_tables.check(window_changes)
        if step.copies.size or step.window_copies.size:
            check_copies(step.copies, limits.num_blocks)
            check_copies(step.window_copies, limits.num_window_blocks)
        self._check_reads(runs, changes, window_changes)
        return runs

    def _check_number_and_tokens(self, step: Step) -> None:
        if step.number != self._num_steps + 1:
            raise StepError(f"step {step.number} came after step {self._num_steps}")
        check_range("token id", step.token_ids, self._spec.vocabulary_size)

    def _check_reads(self, runs: Runs, changes: Ints, window_changes: Ints) -> None:
        """Every block with a key that a row sees has been set, by this step or an earlier one."""
        seats, stops = runs.seats.tolist(), runs.stop_positions
        reads: list[tuple[BlockTables, Ints, list[Read]]] = []
        if self._has_full_layers:
            reads.append((self._tables, changes, list(zip(seats, repeat(0), stops))))
        if self._windows:
            first_keys = [window.first_visible(runs.first_positions) for window in self._windows]
            firsts = np.minimum.reduce(first_keys).tolist()
            reads.append((self._window_tables, window_changes, list(zip(seats, firsts, stops))))
        new = [tables.check_reads(made, read) for tables, made, read in reads]
        for (tables, _, read), is_new in zip(reads, new, strict=True):
            if is_new:
                tables.note_reads(read)


def _most_heads(load: Load) -> tuple[int, int]:
    """KV heads, and heads of one: of the layers that have most of each, for which attention is dispatched."""
    attentions = [
        (len(held.kv_heads), layer.attention.heads_per_kv_head)
        for _, layer, held in load.share.held(load.spec)
        if layer.attention is not None
    ]
    return max((held for held, _ in attentions), default=0), max(
        (group for _, group in attentions), default=1
    )


def row_bucket(num_rows: int, max_rows: int) -> int:
    """The rows of the program that runs `num_rows` rows: the next power of two."""
    return min(max_rows, 1 << (num_rows - 1).bit_length()) if num_rows else 0
