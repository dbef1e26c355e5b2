"""Random numbers of one sequence by position: the same whatever else runs, and if it is computed again."""

from __future__ import annotations

import secrets

import numpy as np

BLOCK = 64  # numbers drawn at once
COUNTS = BLOCK // 4  # of Philox's counter for them: each gives four


class RandomNumbers:
    """A number in [0, 1) for every position: Philox (Salmon et al. 2011) with a counter that says where.

    The key comes from the seed, the text's index among those of one prompt, and the purpose, by NumPy's
    SeedSequence. Both are fixed in NumPy for all time and platforms.
    """

    def __init__(self, seed: int | None, index: int = 0, purpose: int = 0) -> None:
        """Seeds the numbers; without a seed they differ every time."""
        entropy = secrets.randbits(128) if seed is None else seed
        sequence = np.random.SeedSequence(entropy, spawn_key=(index, purpose))
        self._key = sequence.generate_state(2, np.uint64)
        self._block = -1
        self._numbers: list[float] = []

    def at(self, position: int) -> float:
        block, place = divmod(position, BLOCK)
        if block != self._block:
            philox = np.random.Philox(key=self._key, counter=block * COUNTS)
            self._numbers = np.random.Generator(philox).random(BLOCK).tolist()
            self._block = block
        return self._numbers[place]
