"""The mask of one text under a grammar: follows what is generated, token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tplaunch.coordinator.serving.grammar.followed import Followed
from tplaunch.coordinator.serving.grammar.process import sentence
from tplaunch.coordinator.serving.grammar.spec import GrammarLimits
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError
from tplaunch.coordinator.serving.sampling.pool import Bools

if TYPE_CHECKING:
    from llguidance import LLMatcher

MakeMatcher: TypeAlias = "Callable[[], LLMatcher]"


class GrammarMask:
    """A TokenMask. Its state is of the tokens that it was asked about last; of others it begins anew."""

    def __init__(
        self,
        make: MakeMatcher,
        vocabulary_size: int,
        end_ids: frozenset[int],
        limits: GrammarLimits,
        make_own: MakeMatcher | None = None,
    ) -> None:
        """make: a matcher at the begin of a text. make_own: one that shares nothing with other texts' ones,
        where that is quick: together they may use up what the limits allow for one.
        """
        self._make, self._make_own = make, make_own
        self._vocabulary_size = vocabulary_size
        self._ends = np.array(sorted(token for token in end_ids if token < vocabulary_size), np.int64)
        self._limits = limits
        self._spare_seconds = limits.spare_seconds
        self._matcher = make()
        self._followed = Followed()

    def allowed(self, generated: Sequence[int]) -> Bools:
        """See TokenMask. Tokens that end the text are allowed where the grammar may end, and only there."""
        begin = time.thread_time()
        bits = self._bits(generated)
        self._spare_seconds -= time.thread_time() - begin - self._limits.mask_seconds
        if self._spare_seconds < 0:
            raise ConstraintError(
                f"the grammar's masks take more than {self._limits.mask_seconds * 1000:g} ms of computing"
                " time for a token; a simpler grammar takes less"
            )
        self._spare_seconds = min(self._spare_seconds, self._limits.spare_seconds)
        table = np.unpackbits(
            np.frombuffer(bits, np.uint8), count=self._vocabulary_size + 1, bitorder="little"
        ).view(np.bool_)
        table[self._ends] = table[-1]
        return table[:-1]

    def may_end(self, generated: Sequence[int]) -> bool:
        """Tells whether these tokens are a whole text of the grammar."""
        self._follow(generated)
        return bool(self._matcher.is_accepting())

    def _bits(self, generated: Sequence[int]) -> bytes:
        self._follow(generated)
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error() and self._make_own is not None:
            self._make, self._make_own = self._make_own, None
            self._restart()
            self._follow(generated)
            bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            reason = sentence(self._matcher.get_error())
            raise ConstraintError(f"the text can't go on as its grammar has it: {reason}")
        return bits

    def _follow(self, generated: Sequence[int]) -> None:
        """Brings the matcher to the end of these tokens."""
        if not self._followed.goes_on(generated):
            self._restart()
        new = [int(token) for token in generated[len(self._followed.tokens) :]]
        self._followed.tokens += new
        for token in new:
            self._matcher.consume_token(token)  # where it fails it stays in error, which the mask tells

    def _restart(self) -> None:
        self._matcher = self._make()
        self._followed.clear()
