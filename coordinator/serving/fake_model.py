"""A model without weights, for tests of all that drives one: its logits are arithmetic on whole texts.

It keeps keys, values and states where a real rank does, in blocks by the step's tables and in slots, and
takes what it finds there: a block that is not a text's own, was not copied, or went too early changes the
logits of everything behind it. So does a generated token that is computed as one of a prompt, or the reverse,
where it tells these apart. `logits` computes the same without any memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.split.limits import Limits

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]
ODD = 0x9E3779B97F4A7C15


def _mix(words: Words) -> Words:
    """A word from each word, by splitmix64's finalizer (https://doi.org/10.1145/2714064.2660195)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _token_words(tokens: npt.NDArray[np.int32], start: int) -> Words:
    """Returns the word that each token adds to a text, by its position."""
    positions = np.arange(start, start + tokens.size, dtype=np.uint64)
    return _mix(tokens.astype(np.uint64) * np.uint64(ODD) + positions + np.uint64(1))


def _generated(words: Words) -> Words:
    """The words of tokens that a model which tells prompts apart computes as generated ones."""
    return words ^ np.uint64(ODD)


def _logits(words: Words, vocabulary_size: int) -> Floats:
    """[words, vocabulary] in a spread that a sampler finds usual, of 12 bits, so that some are equal."""
    columns = np.arange(vocabulary_size, dtype=np.uint64) * np.uint64(ODD)
    twelve = (_mix(words[:, None] ^ columns) >> np.uint64(52)).astype(np.float32)
    return twelve * np.float32(1 / 256) - np.float32(8)


def logits(
    tokens: list[int], kinds: LayerKinds, vocabulary_size: int, num_prompt: int | None = None
) -> Floats:
    """The logits behind each token of a text [tokens, vocabulary].

    num_prompt: tokens that were not generated, where prompts are told apart.
    """
    token_words = _token_words(np.array(tokens, np.int32), 0)
    if num_prompt is not None:
        token_words[num_prompt:] = _generated(token_words[num_prompt:])
    words = np.cumsum(token_words, dtype=np.uint64)
    total = np.zeros(len(tokens), np.uint64)
    if kinds.sees_all:
        total += np.cumsum(words, dtype=np.uint64)
    if kinds.window:
        sums = np.concatenate(([np.uint64(0)], np.cumsum(words, dtype=np.uint64)))
        stops = np.arange(1, len(tokens) + 1)
        total += (sums[stops] - sums[np.maximum(0, stops - kinds.window)]) * np.uint64(3)
    if kinds.has_states:
        total += words * np.uint64(5)
    return _logits(total, vocabulary_size)


class FakeModel:
    """The memory and the arithmetic of all ranks together."""

    def __init__(
        self, limits: Limits, kinds: LayerKinds, vocabulary_size: int, tells_prompts_apart: bool = False
    ) -> None:
        self._kinds, self._vocabulary_size = kinds, vocabulary_size
        self._tells_prompts_apart = tells_prompts_apart
        self._length = limits.block_length
        table = (limits.max_sequences, -(-limits.context_length // limits.block_length))
        self._tables = np.full(table, -1), np.full(table, -1)
        cells = (limits.num_blocks, limits.num_window_blocks)
        self._cells = [np.zeros((num_blocks, limits.block_length), np.uint64) for num_blocks in cells]
        self._states = np.zeros(limits.num_slots, np.uint64)

    def run(self, step: Step) -> Floats:
        """[logit rows, vocabulary]"""
        changes = (step.tables, step.window_tables), (step.copies, step.window_copies)
        for table, cells, changed, copied in zip(self._tables, self._cells, *changes, strict=True):
            for seat, index, block in changed.reshape(-1, 3).tolist():
                table[seat, index] = block
            for source, destination in copied.reshape(-1, 2).tolist():
                cells[destination] = cells[source]
        runs, words, row = step.runs.reshape(-1, 5).tolist(), [], 0
        read = {slot: int(self._states[slot]) for *_, slot, _ in runs if slot >= 0}
        for seat, start, length, read_slot, write_slot in runs:
            tokens = step.token_ids[row : row + length]
            before = read.get(read_slot, 0) if self._kinds.has_states else self._word_before(seat, start)
            token_words = _token_words(tokens, start)
            if self._tells_prompts_apart and not step.of_prompts:
                token_words = _generated(token_words)
            texts = np.cumsum(token_words, dtype=np.uint64) + np.uint64(before)
            if self._kinds.has_states:
                self._states[write_slot] = texts[-1]
            self._store(seat, start, texts)
            wanted = step.logit_rows[(step.logit_rows >= row) & (step.logit_rows < row + length)] - row
            words += [self._word(seat, start + int(one), int(texts[one])) for one in wanted]
            row += length
        return _logits(np.array(words, np.uint64), self._vocabulary_size)

    def _word_before(self, seat: int, start: int) -> int:
        """Stands for the text before a position, as the cell there has it."""
        if not start:
            return 0
        table, cells = (table[not self._kinds.sees_all] for table in (self._tables, self._cells))
        return int(cells[table[seat, (start - 1) // self._length], (start - 1) % self._length])

    def _store(self, seat: int, start: int, texts: Words) -> None:
        positions = np.arange(start, start + texts.size)
        for is_used, table, cells in zip(
            (self._kinds.sees_all, self._kinds.window), self._tables, self._cells, strict=True
        ):
            if is_used:
                blocks = table[seat, positions // self._length]
                assert (blocks >= 0).all(), (
                    f"seat {seat} has no block for positions {start} to {positions[-1]}"
                )
                cells[blocks, positions % self._length] = texts

    def _word(self, seat: int, position: int, text: int) -> int:
        """Returns the word from which a row's logits follow: everything that its layers see."""
        total = self._sum(0, seat, 0, position + 1) if self._kinds.sees_all else 0
        if self._kinds.window:
            total += 3 * self._sum(1, seat, max(0, position + 1 - self._kinds.window), position + 1)
        return (total + (5 * text if self._kinds.has_states else 0)) % 2**64

    def _sum(self, kind: int, seat: int, start: int, stop: int) -> int:
        positions = np.arange(start, stop)
        blocks = self._tables[kind][seat, positions // self._length]
        found = self._cells[kind][blocks, positions % self._length]
        return int(found.sum(dtype=np.uint64))
