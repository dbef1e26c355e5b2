"""Picks the rows of the next step. Pure arithmetic: no sockets, no device.

Sequences come to run in the order of their arrival, as far as there are seats and room; a few may overtake
one that is too long for the room that there is. Every one that waits for one row (decode) gets it first; what
rows are left go to prefill, in chunks, in the order of arrival, but the oldest prompt leaves half of them to
shorter ones, the shortest first: none waits for a much longer one, and the oldest comes to its end however
many others come. Where a step has no room for all that decode, they take turns, and prompts come first once
the oldest has waited for a whole round of theirs: everything advances. Where blocks run out, the newest
sequence gives its blocks back and waits again, before all that came after it; it is computed again later, and
gives the same tokens.

Where ranks compute rows of prompts in another arithmetic than generated ones, a step has rows of one kind:
decode and prefill take turns. Tokens that were generated before a preemption are computed again as such.

With several stages a step may be scheduled while others are under way: each rank runs them in order, so what
is computed counts as soon as its step is sent. A sequence whose next token is awaited waits; its prompt does
not, which goes on chunk by chunk. Those that decode are dealt out over steps as micro_batches.py has it, and
long prompts over more, so that all stages have something to do.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import NO_INTEGERS, Step, Wanted
from tplaunch.coordinator.serving.counts import Counts
from tplaunch.coordinator.serving.kv_memory import KVMemory
from tplaunch.coordinator.serving.micro_batches import Cut, MicroBatches
from tplaunch.coordinator.serving.sequence import ScheduledRows, Sequence
from tplaunch.coordinator.split.limits import Limits

MAX_OVERTAKEN = 8  # by so many is one overtaken that waits for room; each of them ends some time
NUM_CANDIDATES = 4  # that are looked at in a step to overtake it


class Scheduler:
    """Holds the sequences; `schedule` picks the runs of a step, `finish` takes note of its result."""

    def __init__(
        self,
        limits: Limits,
        memory: KVMemory,
        counts: Counts | None = None,
        micro_batches: MicroBatches | None = None,
    ) -> None:
        self._limits, self._memory = limits, memory
        self._micro_batches = micro_batches or MicroBatches(1)
        self._num_stages = self._micro_batches.num_stages
        self._tells_prompts_apart, self._was_of_prompts = memory.tells_prompts_apart, False
        self._counts = counts or Counts()
        self._waiting: list[Sequence] = []  # by arrival
        self._running: list[Sequence] = []  # by arrival
        self._num_steps = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def arrivals(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The arrivals of those that run and of those that wait. Any thread may call this."""
        return list(map(_arrival, self._running.copy())), list(map(_arrival, self._waiting.copy()))

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self._waiting, sequence, key=_arrival)

    def add_running(self, sequence: Sequence) -> None:
        """Adds one that has its seat already: a fork of another."""
        sequence.last_step = self._num_steps
        bisect.insort(self._running, sequence, key=_arrival)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Ends a sequence at once. forget: nothing that it computed may be found again."""
        (self._running if sequence.is_running else self._waiting).remove(sequence)
        self._memory.release(sequence, forget=forget)

    def schedule(self) -> list[ScheduledRows]:
        """The runs of the next step, at least one where no sequence awaits its next token."""
        self._admit()
        self._num_steps += 1
        runs: list[ScheduledRows] = []
        cut = self._decode_cut()
        rows_left, logits_left = self._most_rows(cut), self._limits.max_logit_rows
        row_keys_left = self._micro_batches.most_row_keys
        for group in self._groups(cut):
            if runs and self._tells_prompts_apart:
                break
            most = self._share_of_first(group, rows_left, logits_left)
            runs_left = self._most_runs(group, cut)
            for sequence in group:
                if not rows_left or not runs_left:
                    break
                rows = min(most, rows_left, self._rows_within(sequence, row_keys_left))
                run = self._run(sequence, rows, logits_left) if sequence.is_running else None
                most = rows_left
                if run is not None:
                    row_keys_left -= run.row_keys
                    runs.append(run)
                    runs_left -= 1
                    rows_left -= run.length
                    logits_left -= run.num_logits
                    sequence.last_step = self._num_steps
        if runs:
            self._was_of_prompts = runs[0].of_prompt
        else:
            self._num_steps -= 1
            assert not all(one.num_waiting for one in self._running) or not self._running, "no one can go on"
        return runs

    def finish(self, runs: SequenceOf[ScheduledRows]) -> None:
        """The step was sent: what later ones read, its keys, values and states, will be there by then."""
        for run in runs:
            if run.start < run.sequence.num_prompt:
                self._counts.num_prompt_tokens += min(run.length, run.sequence.num_prompt - run.start)
        self._memory.computed(runs)

    def _admit(self) -> None:
        """Lets those that wait run, in order of arrival; where one finds no room, a few behind it may."""
        while self._waiting and self._seat(self._waiting[0]):
            pass
        if not self._waiting or not self._memory.num_free_seats:
            return
        first = self._waiting[0]
        for sequence in self._waiting[1 : 1 + NUM_CANDIDATES]:
            # One that has given its blocks back comes first to what is free.
            if first.was_admitted or first.num_overtaken >= MAX_OVERTAKEN:
                break
            if len(sequence.tokens) < len(first.tokens):
                first.num_overtaken += self._seat(sequence)

    def _seat(self, sequence: Sequence) -> bool:
        """Lets one run that waits, if it finds room."""
        if not self._memory.admit(sequence, self._running):
            return False
        self._waiting.remove(sequence)
        self.add_running(sequence)
        if sequence.reads_cache and not sequence.was_admitted:
            self._counts.cache_tokens_queried += len(sequence.tokens)
            self._counts.cache_tokens_hit += sequence.num_cached
        sequence.was_admitted = True
        return True

    def _decode_cut(self) -> Cut:
        """How those that decode are dealt out over steps, those that await a token in others among them."""
        num_decoding = sum(sequence.num_waiting <= 1 for sequence in self._running)
        if num_decoding < len(self._running):  # chunks of prompts go along, whose time is another
            return self._micro_batches.usual_cut(num_decoding)
        return self._micro_batches.cut(num_decoding)

    def _most_rows(self, cut: Cut) -> int:
        """Rows of a step: with several stages so few that all of these have something to do."""
        if self._num_stages == 1:
            return self._limits.max_rows
        num_tokens = sum(len(sequence.tokens) for sequence in self._running if sequence.num_waiting > 1)
        return min(self._limits.max_rows, cut.rows + self._micro_batches.prompt_rows(num_tokens))

    def _rows_within(self, sequence: Sequence, row_keys: int) -> int:
        """How many rows it gets at most for the keys that they see; of one that decodes none count."""
        if sequence.num_waiting <= 1:
            return 1
        return self._micro_batches.rows_within(sequence.num_computed, row_keys)

    def _most_runs(self, group: SequenceOf[Sequence], cut: Cut) -> int:
        """Sequences of a group that a step has: of those that decode its part, where there are stages."""
        decodes = self._num_stages > 1 and group and group[0].num_waiting <= 1
        return cut.rows if decodes else len(group)

    def _groups(self, cut: Cut) -> Iterable[list[Sequence]]:
        """All that may go on, those first whose turn it is.

        A few that decode wait for others that are on their way, to go on together.
        """
        num_ready = sum(sequence.num_waiting == 1 for sequence in self._running)
        if num_ready < cut.last_rows and all(sequence.num_waiting <= 1 for sequence in self._running):
            return ()
        return self._by_kind() if self._tells_prompts_apart else self._by_turn()

    def _by_turn(self) -> Iterator[list[Sequence]]:
        """All that run: those that decode and the prompts, those first whose turn it is."""
        decode = [sequence for sequence in self._running if sequence.num_waiting == 1]
        prefill = [sequence for sequence in self._running if sequence.num_waiting > 1]
        decode.sort(key=lambda sequence: sequence.last_step)
        is_overdue = prefill and self._num_steps - 1 - prefill[0].last_step > len(decode)
        _sort_behind_oldest(prefill)
        yield from (prefill, decode) if is_overdue else (decode, prefill)

    def _by_kind(self) -> tuple[list[Sequence], list[Sequence]]:
        """All whose next row was generated and all in their prompts, first those whose turn it is."""
        generated = [sequence for sequence in self._running if not sequence.in_prompt]
        prompts = [sequence for sequence in self._running if sequence.in_prompt]
        generated.sort(key=lambda sequence: (sequence.num_waiting > 1, sequence.last_step))
        _sort_behind_oldest(prompts)
        return (generated, prompts) if self._was_of_prompts else (prompts, generated)

    def _share_of_first(self, group: SequenceOf[Sequence], rows_left: int, logits_left: int) -> int:
        """How many rows the first gets at most. A prompt leaves half to shorter ones, if they need it."""
        plain = with_logits = 0
        if len(group) < 2 or group[0].num_waiting <= 1:
            return rows_left
        for sequence in group[1:]:
            if sequence.num_waiting >= group[0].num_waiting:
                break
            start, stop = sequence.num_computed, self._memory.cut(sequence, len(sequence.tokens))
            num_logits = max(0, stop - max(start, sequence.first_logits))
            with_logits += num_logits
            plain += stop - start - num_logits
        return max(-(-rows_left // 2), rows_left - plain - min(with_logits, logits_left))

    def _run(self, sequence: Sequence, rows_left: int, logits_left: int) -> ScheduledRows | None:
        """Schedules as many rows of the sequence as find room, logits and blocks; None for none."""
        start = sequence.num_computed
        stop = (
            sequence.num_prompt if self._tells_prompts_apart and sequence.in_prompt else len(sequence.tokens)
        )
        length = min(stop - start, rows_left)
        length = min(length, max(0, sequence.first_logits - start) + logits_left)
        if length <= 0:
            return None
        stop = self._reserve(sequence, start + length)
        slots = self._memory.slots(sequence) if stop > start else None
        if slots is None:
            return None
        num_logits = max(0, stop - max(start, sequence.first_logits))
        return ScheduledRows(sequence, start, stop - start, num_logits, *slots)

    def _reserve(self, sequence: Sequence, num_positions: int) -> int:
        """Up to which position the sequence has blocks, if need be those of newer sequences."""
        while (stop := self._memory.reserve(sequence, num_positions)) == sequence.num_computed:
            newest = next(
                (other for other in reversed(self._running) if self._can_yield(other, sequence)), None
            )
            if newest is None:
                break
            self._preempt(newest)
        return stop

    def _can_yield(self, other: Sequence, sequence: Sequence) -> bool:
        """Tells whether the other came later, and has no rows in this step yet."""
        return other.arrival > sequence.arrival and other.last_step < self._num_steps

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._memory.release(sequence)
        self.add(sequence)
        self._counts.num_preemptions += 1


def _sort_behind_oldest(prompts: list[Sequence]) -> None:
    """The oldest stays first; behind it come those with less left than it has, the shortest first."""
    prompts[1:] = sorted(prompts[1:], key=lambda one: min(one.num_waiting, prompts[0].num_waiting))


def _arrival(sequence: Sequence) -> tuple[int, int]:
    return sequence.arrival


def make_step(number: int, runs: SequenceOf[ScheduledRows], memory: KVMemory, wanted: Wanted) -> Step:
    """The message that has the ranks compute these runs, with the changes of the memory since the last."""
    token_ids: list[int] = []
    columns: list[int] = []
    logit_rows: list[int] = []
    for run in runs:
        sequence = run.sequence
        token_ids += sequence.tokens[run.start : run.start + run.length]
        logit_rows += range(len(token_ids) - run.num_logits, len(token_ids))
        columns += (sequence.seat or 0, run.start, run.length, run.read_slot, run.write_slot)
    arrays = map(_int32s, (token_ids, columns, logit_rows, *memory.take_changes()))
    return Step(number, *arrays, wanted=wanted, of_prompts=all(run.of_prompt for run in runs))


def _int32s(numbers: list[int]) -> npt.NDArray[np.int32]:
    return np.array(numbers, np.int32) if numbers else NO_INTEGERS
