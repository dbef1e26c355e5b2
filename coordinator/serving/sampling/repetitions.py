"""Finds which repetition a text ends in, in a time that hardly grows with how long that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

FEW_LENGTHS = 32  # up to which lengths are tried one by one
_SEED = np.random.default_rng()  # of this process: nobody can make texts that look alike and are not
_BASE = np.uint64(_SEED.integers(1 << 62) * 2 + 1)


class Text:
    """The tokens of a text that grows at its end."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: Int64s = np.array(tokens, np.int64)
        self._length = self._tokens.size

    def grown(self, num_first: int, generated: Sequence[int]) -> Int64s:
        """Returns the tokens, not to be written to: those that it was made of, and what was generated."""
        length = num_first + len(generated)
        if length > self._tokens.size:
            self._tokens = np.concatenate([self._tokens[: self._length], np.zeros(length, np.int64)])
        if length > self._length:
            self._tokens[self._length : length] = generated[self._length - num_first :]
        self._length = length
        return self._tokens[:length]


def repetitions(text: Int64s, least: int, most: int) -> dict[int, int]:
    """Returns each token that would go on with a repetition, and how many tokens the longest such one has.

    text: at least two tokens. least, most: tokens of a repetition; of a longer one the last `most` count.
    """
    ends = np.flatnonzero(text[:-1] == text[-1])  # where an earlier occurrence of the last token is
    found: dict[int, int] = {}
    for length in range(1, min(most, FEW_LENGTHS) + 1):
        if length > 1:
            ends = ends[ends >= length - 1]
            ends = ends[text[ends - (length - 1)] == text[text.size - length]]
        if not ends.size:
            return found
        if length >= least:
            found.update(dict.fromkeys(text[ends + 1].tolist(), length))
    if most > FEW_LENGTHS:
        lengths = _lengths(text, ends, most)
        order = lengths.argsort(kind="stable")
        order = order[lengths[order] >= least]
        found.update(zip(text[ends[order] + 1].tolist(), lengths[order].tolist()))
    return found


def _lengths(text: Int64s, ends: Int64s, most: int) -> Int64s:
    """Returns how many tokens, up to `most`, before each of these ends are those before the text's end.

    Halves the range of each length again and again, by sums over the tokens' random numbers. That two texts
    have one sum by chance is not to be expected in the time of the universe.
    """
    powers = np.cumprod(np.full(text.size, _BASE, np.uint64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(text) * powers)])
    least, largest = np.full(ends.size, FEW_LENGTHS), np.minimum(ends + 1, most)
    shift = powers[text.size - 2 - ends]  # by so much the end's sums lie lower
    while (open_ := least < largest).any():
        middle = (least + largest + 1) // 2
        there = (sums[ends + 1] - sums[ends + 1 - middle]) * shift
        here = sums[text.size] - sums[text.size - middle]
        is_same = there == here
        least = np.where(open_ & is_same, middle, least)
        largest = np.where(open_ & ~is_same, middle - 1, largest)
    return least


def _mixed(text: Int64s) -> UInt64s:
    """Returns a number for each token that looks drawn by chance (splitmix64, Steele et al. 2014)."""
    mixed = text.astype(np.uint64) + _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: UInt64s = mixed ^ (mixed >> np.uint64(31))
    return found
