"""Scheduling under random arrivals: nothing is computed twice or never, and no limit is broken."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, examples
from tests.steps import positions_of
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.serving.scheduler import CapacityError, Run, Scheduler, Sequence
from tplaunch.coordinator.split.limits import Limits

LIMITS_DRAWN = st.builds(
    Limits,
    context_length=st.just(1000),
    num_blocks=st.integers(1, 30),
    block_length=st.sampled_from([1, 2, 3, 8]),
    max_rows=st.integers(1, 20),
    max_logit_rows=st.integers(1, 6),
    num_slots=st.integers(0, 3),
    max_sequences=st.integers(1, 6),
    num_window_blocks=st.integers(25, 40) | st.just(0),
)


WINDOW = 5


@dataclasses.dataclass
class Arrival:
    """A prompt, when it comes, and how many tokens are then made of it."""

    step: int
    prompt: list[int]
    num_decoded: int
    all_logits: bool


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 12),
        st.lists(st.integers(0, 999), min_size=1, max_size=40),
        st.integers(0, 6),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


class Simulation:
    """Drives a scheduler as an engine would, and looks at every step it makes."""

    def __init__(self, limits: Limits, arrivals: list[Arrival]) -> None:
        self.limits, self.scheduler = limits, Scheduler(limits, WINDOW)
        self.tables: dict[tuple[int, int], int] = {}  # as the workers keep them
        self.window_tables: dict[tuple[int, int], int] = {}
        self.pending = sorted(arrivals, key=lambda arrival: arrival.step)
        self.living: list[tuple[Sequence, Arrival]] = []
        self.logits: dict[int, list[int]] = {}  # id of a sequence: positions that got logits
        self.finished: list[tuple[Sequence, Arrival]] = []
        self.num_steps = 0

    def run(self) -> None:
        while self.pending or self.living:
            self._admit()
            if not self.living:
                self.pending[0].step = 0
                continue
            waiting = {id(sequence): sequence.num_waiting for sequence, _ in self.living}
            try:
                step, runs = self.scheduler.schedule()
            except CapacityError:
                self._check_stuck()
                sequence, _ = self.living.pop()  # gives up on the one that came last
                self.scheduler.remove(sequence)
                continue
            self.num_steps += 1
            self._check_runs(runs, waiting)
            self._check_step(step, runs)
            self.scheduler.finish(runs)
            self._advance(runs)

    def _admit(self) -> None:
        while self.pending and self.pending[0].step <= self.num_steps:
            arrival = self.pending.pop(0)
            sequence = Sequence(list(arrival.prompt), arrival.all_logits)
            self.living.append((sequence, arrival))
            self.logits[id(sequence)] = []
            self.scheduler.add(sequence)

    def _check_stuck(self) -> None:
        """No sequence has a place for its next row, and no block is free."""
        block_length = self.limits.block_length
        assert sum(len(sequence.blocks) for sequence, _ in self.living) == self.limits.num_blocks
        for sequence, _ in self.living:
            assert sequence.num_computed == len(sequence.blocks) * block_length

    def _check_runs(self, runs: list[Run], waiting: dict[int, int]) -> None:
        assert runs
        assert len({id(run.sequence) for run in runs}) == len(runs)
        is_prefill = [waiting[id(run.sequence)] > 1 for run in runs]
        assert is_prefill[1:] == sorted(is_prefill[1:])  # the first may be a prompt that waited for long
        assert 1 <= sum(run.length for run in runs) <= self.limits.max_rows
        assert sum(len(run.logit_positions) for run in runs) <= self.limits.max_logit_rows
        for run in runs:
            assert run.length >= 1
            assert run.start == run.sequence.num_computed  # each token once, in order
            assert run.start + run.length <= len(run.sequence.tokens)
            stop = run.start + run.length
            assert len(run.sequence.blocks) == -(-stop // self.limits.block_length)  # none before its time
            positions = range(run.start, run.start + run.length)
            last = len(run.sequence.tokens) - 1
            wanted = positions if run.sequence.all_logits else [p for p in positions if p == last]
            assert list(run.logit_positions) == list(wanted)
        blocks = Counter(block for sequence, _ in self.living for block in sequence.blocks)
        window_blocks = Counter(
            block for sequence, _ in self.living for block in sequence.window_blocks.values()
        )
        seats = Counter(sequence.seat for sequence, _ in self.living if sequence.seat is not None)
        for owned, count in (
            (blocks, self.limits.num_blocks),
            (window_blocks, self.limits.num_window_blocks),
            (seats, self.limits.max_sequences),
        ):
            assert all(owners == 1 for owners in owned.values())
            assert set(owned) <= set(range(count))
        slots = Counter(sequence.slot for sequence, _ in self.living if sequence.slot is not None)
        assert all(count == 1 for count in slots.values())
        assert set(slots) <= set(range(self.limits.num_slots))

    def _check_step(self, step: Step, runs: list[Run]) -> None:
        assert step.number == self.num_steps
        length = self.limits.block_length
        for tables, changes in ((self.tables, step.tables), (self.window_tables, step.window_tables)):
            tables |= {(seat, place): block for seat, place, block in changes.reshape(-1, 3).tolist()}
        row = 0
        logit_rows = []
        for run, columns in zip(runs, step.runs.reshape(-1, 5).tolist(), strict=True):
            sequence, stop = run.sequence, run.start + run.length
            slot = sequence.slot if self.limits.num_slots else -1
            assert columns == [sequence.seat, run.start, run.length, slot if run.start else -1, slot]
            assert step.token_ids[row : row + run.length].tolist() == sequence.tokens[run.start : stop]
            for place in range((stop - 1) // length + 1):
                assert self.tables[columns[0], place] == sequence.blocks[place]
            if self.limits.num_window_blocks:
                for place in range(max(0, run.start + 1 - WINDOW) // length, (stop - 1) // length + 1):
                    assert self.window_tables[columns[0], place] == sequence.window_blocks[place]
            logit_rows += [row + position - run.start for position in run.logit_positions]
            row += run.length
        assert row == step.token_ids.size
        assert step.logit_rows.tolist() == logit_rows
        fields = ("token_ids", "runs", "tables", "window_tables", "logit_rows", "copies", "window_copies")
        assert all(getattr(step, field).dtype == np.int32 for field in fields)

    def _advance(self, runs: list[Run]) -> None:
        for run in runs:
            self.logits[id(run.sequence)] += run.logit_positions
        for sequence, arrival in list(self.living):
            if sequence.num_waiting:
                continue
            if len(sequence.tokens) < len(arrival.prompt) + arrival.num_decoded:
                sequence.tokens.append(len(sequence.tokens))
            else:
                self.living.remove((sequence, arrival))
                self.finished.append((sequence, arrival))
                self.scheduler.remove(sequence)
                assert not sequence.blocks and not sequence.window_blocks
                assert sequence.slot is None and sequence.seat is None


@given(LIMITS_DRAWN, ARRIVALS)
@examples(300)
def test_every_token_is_computed_once_within_the_limits(limits: Limits, arrivals: list[Arrival]) -> None:
    simulation = Simulation(limits, arrivals)
    simulation.run()
    room = limits.num_blocks * limits.block_length
    needed = sum(len(arrival.prompt) + arrival.num_decoded for arrival in arrivals) + len(arrivals) * (
        limits.block_length - 1
    )
    if needed <= room:
        assert len(simulation.finished) == len(arrivals)
    for sequence, arrival in simulation.finished:
        assert sequence.num_computed == len(sequence.tokens) == len(arrival.prompt) + arrival.num_decoded
        first = 0 if arrival.all_logits else len(arrival.prompt) - 1
        assert simulation.logits[id(sequence)] == list(range(first, len(sequence.tokens)))
    everything = Sequence([0] * room)
    simulation.scheduler.add(everything)  # all blocks came back
    while everything.num_waiting:
        simulation.scheduler.finish(simulation.scheduler.schedule()[1])
    assert sorted(everything.blocks) == list(range(limits.num_blocks))


@given(LIMITS_DRAWN, st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=6))
@examples(100)
def test_sequences_that_wait_for_nothing_are_left_alone(
    limits: Limits, prompts: list[tuple[int, bool]]
) -> None:
    """Some have been computed to their end and their next token is not there yet, while others go on."""
    limits = dataclasses.replace(limits, num_blocks=100, max_sequences=6, num_window_blocks=0)
    scheduler = Scheduler(limits)
    sequences = [Sequence([1] * length) for length, _ in prompts]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(30):
        try:
            _, runs = scheduler.schedule()
        except CapacityError:  # all wait for nothing
            break
        assert all(run.length > 0 for run in runs)
        scheduler.finish(runs)
        for sequence, (_, fed) in zip(sequences, prompts, strict=True):
            if fed and not sequence.num_waiting:
                sequence.tokens.append(3)
    for sequence, (length, fed) in zip(sequences, prompts, strict=True):
        assert sequence.num_computed <= len(sequence.tokens)
        assert fed or len(sequence.tokens) == length


def test_decode_goes_first_and_prefill_fills_the_step() -> None:
    limits = dataclasses.replace(LIMITS, max_rows=8)
    scheduler = Scheduler(limits)
    prompt, decoding = Sequence(list(range(20))), Sequence([7])
    scheduler.add(prompt)
    scheduler.add(decoding)
    step, _ = scheduler.schedule()
    assert step.token_ids.tolist() == [7, 0, 1, 2, 3, 4, 5, 6]
    assert positions_of(step) == [0, 0, 1, 2, 3, 4, 5, 6]
    assert step.logit_rows.tolist() == [0]


@given(
    limits=LIMITS_DRAWN,
    num_decoding=st.integers(1, 20),
    prompts=st.lists(st.tuples(st.integers(2, 60), st.booleans()), max_size=2),
)
@examples(200)
def test_everything_advances_however_few_rows_a_step_has(
    limits: Limits, num_decoding: int, prompts: list[tuple[int, bool]]
) -> None:
    """Decoding goes on for ever: nobody waits longer than twice a round of turns for its next row."""
    scheduler = Scheduler(
        dataclasses.replace(limits, num_blocks=10_000, num_slots=0, max_sequences=30, num_window_blocks=0)
    )
    sequences = [Sequence([1]) for _ in range(num_decoding)]
    sequences += [Sequence([1] * length, all_logits) for length, all_logits in prompts]
    for sequence in sequences:
        scheduler.add(sequence)
    last_seen = dict.fromkeys(map(id, sequences), 0)
    round_length = len(sequences) + 1
    for number in range(1, 8 * round_length):
        _, runs = scheduler.schedule()
        scheduler.finish(runs)
        for run in runs:
            last_seen[id(run.sequence)] = number
            if not run.sequence.num_waiting:
                run.sequence.tokens.append(2)
        first_prompt = next((sequence for sequence in sequences if sequence.num_waiting > 1), None)
        for sequence in sequences:
            if sequence.num_waiting == 1 or sequence is first_prompt:
                assert number - last_seen[id(sequence)] <= 2 * round_length
            else:
                last_seen[id(sequence)] = number  # its turn is after the prompts before it


def test_a_full_cache_is_an_error_that_names_its_size() -> None:
    limits = dataclasses.replace(LIMITS, num_blocks=2, block_length=4)
    scheduler = Scheduler(limits)
    sequence = Sequence(list(range(9)))
    scheduler.add(sequence)
    _, runs = scheduler.schedule()
    assert runs[0].length == 8
    assert list(runs[0].logit_positions) == []
    scheduler.finish(runs)
    with pytest.raises(CapacityError, match="the KV cache of 2 blocks of 4 positions is full"):
        scheduler.schedule()
    scheduler.remove(sequence)
    scheduler.add(Sequence([1]))
    assert scheduler.schedule()[0].number == 2
