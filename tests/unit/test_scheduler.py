"""The scheduler: who gets rows of a step, in which order, within which limits."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, examples
from tplaunch.coordinator.messages import Step, Wanted
from tplaunch.coordinator.serving.kv_memory import KVMemory, LayerKinds
from tplaunch.coordinator.serving.scheduler import MAX_OVERTAKEN, Scheduler, make_step
from tplaunch.coordinator.serving.sequence import ScheduledRows, Sequence
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError

pytestmark = pytest.mark.unit


def scheduler_of(
    limits: Limits, kinds: LayerKinds | None = None, *, tells_prompts_apart: bool = False
) -> tuple[Scheduler, KVMemory]:
    memory = KVMemory(limits, kinds or LayerKinds(), tells_prompts_apart)
    return Scheduler(limits, memory), memory


def add(scheduler: Scheduler, *prompts: list[int], all_logits: bool = False) -> list[Sequence]:
    """One after another."""
    made = [
        Sequence(
            list(tokens),
            (len(scheduler) + number, 0),
            logits_from=0 if all_logits else None,
            reads_cache=False,
        )
        for number, tokens in enumerate(prompts)
    ]
    for sequence in made:
        scheduler.add(sequence)
    return made


def step_of(runs: list[ScheduledRows], memory: KVMemory) -> Step:
    return make_step(1, runs, memory, Wanted())


def test_decode_goes_first_and_prefill_fills_the_step() -> None:
    scheduler, memory = scheduler_of(dataclasses.replace(LIMITS, max_rows=8, max_sequences=2))
    add(scheduler, list(range(20)), [7])
    step = step_of(scheduler.schedule(), memory)
    assert step.token_ids.tolist() == [7, 0, 1, 2, 3, 4, 5, 6]
    assert [run[1:3] for run in step.runs.reshape(-1, 5).tolist()] == [[0, 1], [0, 7]]
    assert step.logit_rows.tolist() == [0]


def test_rows_of_prompts_are_fewer_the_more_keys_they_see() -> None:
    """So that no device attends for longer than its driver waits; where even a row sees more, it gets one."""
    limits = dataclasses.replace(LIMITS, max_rows=16, max_sequences=3, context_length=128, num_blocks=64)
    scheduler, _ = scheduler_of(limits)
    scheduler._micro_batches.most_row_keys = 160
    long, *_ = add(scheduler, list(range(70)), list(range(70)), [1])
    seen, of_long = [], []
    while long.num_waiting > 1:
        runs = scheduler.schedule()
        scheduler.finish(runs)
        seen.append([(run.start, run.length) for run in runs])
        of_long += [(run.start, run.length) for run in runs if run.sequence is long]
        assert sum(run.row_keys for run in runs) <= 160
        for run in runs:
            if not run.sequence.num_waiting and run.sequence is not long:
                run.sequence.tokens.append(1)
    assert seen[0] == [(0, 1), (0, 12), (0, 3)]  # 144 of the first prompt leave 16 to the second
    for start, length in of_long[:-1]:
        assert (length + 1) * (start + length + 1) > 160
    scheduler._micro_batches.most_row_keys = 5
    long.tokens += [1] * 20
    assert [run.length for run in scheduler.schedule() if run.sequence is long] == [1]


def test_kinds_of_rows_take_turns_where_they_are_told_apart() -> None:
    limits = dataclasses.replace(LIMITS, max_rows=8, max_sequences=3)
    scheduler, memory = scheduler_of(limits, tells_prompts_apart=True)
    add(scheduler, [7], list(range(20)))
    seen = []
    for _ in range(6):
        runs = scheduler.schedule()
        step = step_of(runs, memory)
        scheduler.finish(runs)
        seen.append((step.of_prompts, [(run.start, run.length) for run in runs]))
        for run in runs:
            if not run.sequence.num_waiting:
                run.sequence.tokens.append(1)
    assert seen == [
        (True, [(0, 1), (0, 7)]),
        (False, [(1, 1)]),
        (True, [(7, 8)]),
        (False, [(2, 1)]),
        (True, [(15, 5)]),
        (False, [(3, 1), (20, 1)]),
    ]


def test_what_was_generated_is_computed_again_as_such() -> None:
    scheduler, memory = scheduler_of(dataclasses.replace(LIMITS, max_rows=8), tells_prompts_apart=True)
    scheduler.add(Sequence(list(range(12)), num_prompt=5, reads_cache=False))
    kinds = []
    for _ in range(2):
        runs = scheduler.schedule()
        kinds.append((step_of(runs, memory).of_prompts, runs[0].start, runs[0].length, runs[0].num_logits))
        scheduler.finish(runs)
    assert kinds == [(True, 0, 5, 0), (False, 5, 7, 1)]


def test_a_step_brings_what_changed_and_no_more() -> None:
    scheduler, memory = scheduler_of(LIMITS)
    (sequence,) = add(scheduler, list(range(9)))
    sizes = []
    for _ in range(6):
        runs = scheduler.schedule()
        step = step_of(runs, memory)
        sizes.append((step.token_ids.size, step.runs.size, step.tables.size // 3))
        scheduler.finish(runs)
        sequence.tokens.append(1)
    assert sizes == [(9, 5, 3), (1, 5, 0), (1, 5, 0), (1, 5, 0), (1, 5, 1), (1, 5, 0)]


@given(
    max_rows=st.integers(1, 9),
    max_logit_rows=st.integers(1, 9),
    prompts=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=8),
)
@examples(150)
def test_rows_stay_within_the_limits_and_come_once(
    max_rows: int, max_logit_rows: int, prompts: list[tuple[int, bool]]
) -> None:
    limits = dataclasses.replace(
        LIMITS, max_rows=max_rows, max_logit_rows=max_logit_rows, max_sequences=4, num_blocks=40
    )
    scheduler, _ = scheduler_of(limits)
    sequences = [
        Sequence([1] * length, (number, 0), logits_from=0 if all_logits else None, reads_cache=False)
        for number, (length, all_logits) in enumerate(prompts)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    left = set(map(id, sequences))
    while left:
        runs = scheduler.schedule()
        assert 0 < sum(run.length for run in runs) <= max_rows
        assert sum(run.num_logits for run in runs) <= max_logit_rows
        for run in runs:
            is_last = run.start + run.length == len(run.sequence.tokens)
            assert run.start == run.sequence.num_computed
            assert run.num_logits == (run.length if run.sequence.logits_from == 0 else int(is_last))
        scheduler.finish(runs)
        for run in runs:
            if not run.sequence.num_waiting:
                scheduler.remove(run.sequence)
                left.remove(id(run.sequence))
    assert not len(scheduler)


@given(
    max_rows=st.integers(1, 9),
    num_decoding=st.integers(1, 20),
    prompts=st.lists(st.tuples(st.integers(2, 60), st.booleans()), max_size=2),
)
@examples(150)
def test_everything_advances_however_few_rows_a_step_has(
    max_rows: int, num_decoding: int, prompts: list[tuple[int, bool]]
) -> None:
    """Decoding goes on for ever: nobody waits longer than twice a round of turns for its next row."""
    limits = dataclasses.replace(
        LIMITS, max_rows=max_rows, num_blocks=10_000, max_sequences=30, context_length=2000
    )
    scheduler, _ = scheduler_of(limits)
    sequences = add(scheduler, *([1] for _ in range(num_decoding)))
    for length, all_logits in prompts:
        sequences += add(scheduler, [1] * length, all_logits=all_logits)
    last_seen = dict.fromkeys(map(id, sequences), 0)
    round_length = len(sequences) + 1
    for number in range(1, 8 * round_length):
        runs = scheduler.schedule()
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


def test_nobody_overtakes_the_one_who_gave_its_blocks_back() -> None:
    """The second needs more blocks than are free; the third would find room, and waits behind it."""
    scheduler, _ = scheduler_of(dataclasses.replace(LIMITS, num_blocks=16, max_sequences=3))
    first, second, third = add(scheduler, [1] * 20, [1] * 50, [1])
    second.was_admitted = True
    scheduler.finish(scheduler.schedule())
    assert [one.is_running for one in (first, second, third)] == [True, False, False]
    scheduler.remove(first)
    scheduler.schedule()
    assert [second.is_running, third.is_running] == [True, True]


def test_a_cache_too_small_for_one_sequence_is_refused() -> None:
    limits = dataclasses.replace(LIMITS, num_blocks=15)
    with pytest.raises(PlanError, match="a KV cache of 15 blocks, where one sequence needs 16"):
        KVMemory(limits, LayerKinds())


def steps_until_done(scheduler: Scheduler, sequence: Sequence) -> int:
    """Runs steps; every sequence whose tokens are computed goes on to decode."""
    for number in range(1, 1000):
        runs = scheduler.schedule()
        scheduler.finish(runs)
        is_done = not sequence.num_waiting
        for run in runs:
            if not run.sequence.num_waiting:
                run.sequence.tokens.append(2)
        if is_done:
            return number
    raise AssertionError("a prompt that never ends")


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """The target: at most three steps beside eight that decode and 4,000 tokens of prefill."""
    limits = dataclasses.replace(LIMITS, max_rows=256, num_blocks=4000, max_sequences=10, context_length=5000)
    scheduler, _ = scheduler_of(limits)
    add(scheduler, *([1] for _ in range(7)))
    steps_until_done(scheduler, add(scheduler, [1])[0])
    (long,) = add(scheduler, [1] * 4000)
    scheduler.finish(scheduler.schedule())
    assert long.num_computed > 200
    (short,) = add(scheduler, [1] * 300)
    assert steps_until_done(scheduler, short) == 3


def test_the_oldest_has_half_and_what_the_others_leave() -> None:
    scheduler, _ = scheduler_of(dataclasses.replace(LIMITS, max_rows=9, max_sequences=3))
    first, second, third = add(scheduler, [1] * 30, [1] * 20, [1] * 2)
    shares = []
    for _ in range(6):
        runs = scheduler.schedule()
        scheduler.finish(runs)
        for run in runs:
            if not run.sequence.num_waiting:
                run.sequence.tokens.append(2)
        shares.append({(first, second, third).index(run.sequence): run.length for run in runs})
    assert shares == [
        {0: 5, 2: 2, 1: 2},
        *({2: 1, 0: 4, 1: 4} for _ in range(4)),
        {2: 1, 0: 6, 1: 2},
    ]


def test_of_equal_prompts_the_oldest_comes_first() -> None:
    scheduler, _ = scheduler_of(dataclasses.replace(LIMITS, max_rows=9, max_sequences=3))
    first, *_ = add(scheduler, [1] * 20, [1] * 20, [1] * 21)
    scheduler.finish(scheduler.schedule())
    scheduler.finish(scheduler.schedule())
    assert [run.length for run in scheduler.schedule()] == [2, 7] and first.num_computed == 18


@given(
    max_rows=st.integers(2, 40),
    num_decoding=st.integers(0, 3),
    prompts=st.lists(
        st.tuples(st.integers(0, 30), st.integers(2, 120)), min_size=1, max_size=10
    ),  # step of its arrival, tokens
)
@examples(150)
def test_a_prompt_ends_after_those_before_it_at_half_of_the_rows(
    max_rows: int, num_decoding: int, prompts: list[tuple[int, int]]
) -> None:
    """Nobody starves: the oldest has half of the rows for sure. And no row of a step is left unused."""
    limits = dataclasses.replace(
        LIMITS, max_rows=max_rows, num_blocks=10_000, max_sequences=30, context_length=2000
    )
    scheduler, _ = scheduler_of(limits)
    num_decoding = min(num_decoding, max_rows - 1)
    decoding = add(scheduler, *([1] for _ in range(num_decoding)))
    half = -(-(max_rows - num_decoding) // 2)
    waiting = sorted(prompts)
    alive: list[Sequence] = []
    ends: dict[int, int] = {}  # the last step in which a prompt may be computed
    step = latest = 0
    while waiting or alive:
        step += 1
        while waiting and waiting[0][0] < step:
            _, length = waiting.pop(0)
            latest = max(latest, step - 1) + -(-length // half)
            number = len(ends)
            sequence = Sequence([1] * length, (100 + number, 0), reads_cache=False)
            scheduler.add(sequence)
            alive.append(sequence)
            ends[id(sequence)] = latest
        rows = sum(sequence.num_waiting for sequence in alive) + num_decoding
        runs = scheduler.schedule() if len(scheduler) else []
        scheduler.finish(runs)
        assert sum(run.length for run in runs) == min(max_rows, rows)
        for sequence in decoding:
            sequence.tokens.append(2)
        for sequence in [one for one in alive if not one.num_waiting]:
            # The last token of another prompt may come first, as if it decoded, each once.
            assert step <= ends[id(sequence)] + len(prompts)
            scheduler.remove(sequence)
            alive.remove(sequence)


def test_one_that_waits_for_room_is_overtaken_by_a_few() -> None:
    scheduler, _ = scheduler_of(dataclasses.replace(LIMITS, num_blocks=16, max_sequences=4))
    first, long = add(scheduler, [1] * 20, [1] * 50)
    scheduler.finish(scheduler.schedule())
    first.tokens.append(2)
    assert not long.is_running
    for number in range(MAX_OVERTAKEN + 1):
        short = Sequence([1], (10 + number, 0), reads_cache=False)
        scheduler.add(short)
        scheduler.finish(scheduler.schedule())
        first.tokens.append(2)
        assert short.is_running == (number < MAX_OVERTAKEN)
        scheduler.remove(short)
    scheduler.remove(first)
    scheduler.schedule()
    assert long.is_running
