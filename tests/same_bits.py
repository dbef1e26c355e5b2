"""Sequences computed side by side in any steps, for tests that nothing but a sequence itself decides its bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.models import LocalEngine
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.limits import Limits

Floats = npt.NDArray[np.float32]


@dataclass
class Placed:
    """A sequence with its blocks, its state's slot and how far it is computed."""

    tokens: list[int]
    blocks: list[int]
    slot: int
    done: int = 0


class Bench:
    """An engine that computes sequences, each put anywhere in the cache, and knows their logits."""

    def __init__(self, engine: LocalEngine, limits: Limits, random: np.random.Generator) -> None:
        self._engine, self._limits, self._random = engine, limits, random
        self._number = 0

    def alone(self, tokens: list[int]) -> Floats:
        """Computes a sequence in one step, and has logits of every row."""
        placed = self._placed([tokens])
        return self._run([(placed[0], len(tokens))])[0]

    def together(self, sequences: Sequence[list[int]]) -> list[Floats]:
        """Computes all of them in steps of any rows of any of them."""
        placed = self._placed(sequences)
        logits: list[list[Floats]] = [[] for _ in placed]
        while left := [index for index, one in enumerate(placed) if one.done < len(one.tokens)]:
            chosen = [index for index in self._random.permutation(left) if self._random.random() < 0.7]
            counts = list(self._counts([placed[index] for index in chosen]))
            rows = [(placed[index], count) for index, count in zip(chosen, counts, strict=True) if count]
            for rank in self._engine.ranks:
                rank.two_phase = bool(self._random.integers(2)) if rank is self._engine.ranks[0] else rank.two_phase
            for rank in self._engine.ranks[1:]:
                rank.two_phase = self._engine.ranks[0].two_phase
            found = iter(self._run(rows) if rows else ())
            for index, count in zip(chosen, counts, strict=True):
                if count:
                    logits[index].append(next(found))
        return [np.concatenate(parts) for parts in logits]

    def _counts(self, chosen: list[Placed]) -> Iterator[int]:
        """As many rows of each as fit the step: often one, as in decode."""
        room = self._limits.max_rows
        for one in chosen:
            wanted = 1 if self._random.random() < 0.4 else int(self._random.integers(1, 40))
            count = min(wanted, room, len(one.tokens) - one.done)
            room -= count
            yield count

    def _placed(self, sequences: Sequence[list[int]]) -> list[Placed]:
        blocks = self._random.permutation(self._limits.num_blocks).tolist()
        slots = self._random.permutation(max(self._limits.num_slots, len(sequences))).tolist()
        length = self._limits.block_length
        return [
            Placed(tokens, [blocks.pop() for _ in range(-(-len(tokens) // length))], slots.pop())
            for tokens in sequences
        ]

    def _run(self, rows: list[tuple[Placed, int]]) -> list[Floats]:
        """One step with so many rows of each; all have logits."""
        self._number += 1
        starts = np.cumsum([0, *(len(one.blocks) for one, _ in rows)])
        spans = [range(one.done, one.done + count) for one, count in rows]
        repeats = [count for _, count in rows]
        num_rows = sum(repeats)
        columns = (
            [one.tokens[position] for (one, _), span in zip(rows, spans, strict=True) for position in span],
            [position for span in spans for position in span],
            np.repeat(starts[:-1], repeats),
            [block for one, _ in rows for block in one.blocks],
            range(num_rows),
            np.repeat([one.slot for one, _ in rows], repeats) if self._limits.num_slots else [],
        )
        step = Step(self._number, *(np.array(column, np.int32) for column in columns))
        logits = self._engine.run(step)
        for one, count in rows:
            one.done += count
        return np.split(logits, np.cumsum(repeats)[:-1])
