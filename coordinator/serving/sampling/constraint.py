"""The seam to whatever rules out tokens by what was generated, such as a grammar: one mask for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tplaunch.coordinator.serving.sampling.pool import Bools, LogitsError


class ConstraintError(LogitsError):
    """A text that can't go on as its request has it; the sentence says why. No other one suffers."""


class TokenMask(Protocol):
    """Rules out tokens of one text by what was generated of it.

    What it allows follows from the generated tokens alone, so that a text may be computed again.
    """

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        """Returns which tokens of the vocabulary may come next, an entry each, not to be written to.

        None stands for all of them. Raises ConstraintError where the text can't go on.
        """


class Constraint(Protocol):
    """Makes the mask of each text of a request. Any number of texts and requests may share one."""

    @property
    def needs_end(self) -> bool:
        """Tells whether a text under it is over only with a token that ends it."""

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> TokenMask:
        """Returns the mask of one more text. end_ids: tokens that end it."""
