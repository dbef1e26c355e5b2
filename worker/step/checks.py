"""The error of a step that a rank can't run, and what several checks of steps share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


class StepError(ValueError):
    """A step that this rank can't run; the message names the numbers."""


def check_range(name: str, values: Ints, stop: int, first: int = 0) -> None:
    """Raises StepError for a value below `first` or not below `stop`."""
    numbers = values.tolist()  # most often a few, for which NumPy takes longer
    if numbers and not first <= min(numbers) <= max(numbers) < stop:
        raise StepError(f"a {name} from {min(numbers)} to {max(numbers)}; {first} to {stop - 1} are possible")


def columns_of(name: str, values: Ints, count: int) -> Ints:
    """The integers as [entries, count]. Raises StepError where the last entry lacks some."""
    if values.size % count:
        raise StepError(f"{values.size} integers of {name}; {count} belong together")
    return values.reshape(-1, count)


def check_copies(copies: Ints, num_blocks: int) -> None:
    """Raises StepError for copies [copies * 2] of blocks that there are not, or whose order would matter."""
    sources, destinations = columns_of("copies", copies, 2).T
    check_range("block to copy", copies, num_blocks)
    if np.unique(destinations).size < destinations.size or np.isin(sources, destinations).any():
        raise StepError("a block is copied to twice, or copied to and from")
