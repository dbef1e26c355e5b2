"""The changes to the logits of one sequence: banned, biased and allowed tokens, the penalties, DRY."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tplaunch.coordinator.serving.sampling.constraint import ConstraintError, TokenMask
from tplaunch.coordinator.serving.sampling.demand import (
    MAX_ALLOWED_ASKED,
    SPARE_CANDIDATES,
    SPARE_FOR_BANS,
)
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.penalties import Dry, Repetition, TokenBytes
from tplaunch.coordinator.serving.sampling.pool import Bools, Ids, Logits, Pool


@dataclass(frozen=True)
class _Allowed:
    """The allowed tokens behind so many generated ones, all where `table` is None."""

    num_generated: int
    table: Bools | None
    few: Ids | None  # the tokens themselves, ascending, where they are few enough to ask for each
    error: ConstraintError | None = None  # why the text can't go on


class Changes:
    """The changes to a sequence's logits, which follow from its parameters and from what was generated."""

    def __init__(
        self,
        params: SamplingParams,
        vocabulary_size: int,
        stages: Collection[str],
        prompt_ids: Sequence[int],
        suppressed: Collection[int],
        end_ids: Collection[int],
        token_bytes: TokenBytes | None,
        mask: TokenMask | None,
    ) -> None:
        """Raises ValueError for token ids in the parameters that the vocabulary does not hold."""
        check_token_ids(params, vocabulary_size)
        self._min_tokens, self._mask = params.min_tokens, mask
        self._vocabulary_size = vocabulary_size
        banned = frozenset(suppressed).union(params.bad_token_ids)
        # Additions to logits: before min_tokens, and from then on.
        self._early = _additions(banned.union(end_ids), params, vocabulary_size)
        self._late = _additions(banned, params, vocabulary_size)
        self._allowed = None
        if params.allowed_token_ids is not None:
            self._allowed = np.zeros(vocabulary_size, np.bool_)
            self._allowed[list(params.allowed_token_ids)] = True
        self._last = self._found(-1, self._allowed)
        self.repetition = Repetition(params, prompt_ids) if "penalties" in stages else None
        self.dry = Dry(params, prompt_ids, token_bytes) if "dry" in stages else None
        self.ban_table = _ban_table(banned, vocabulary_size) if self.only_bans and banned else None

    def are_fixed(self, num_generated: int) -> bool:
        """Tells whether they stay the same from so many generated tokens on."""
        varying = (self._mask, self.repetition, self.dry)
        return num_generated >= self._min_tokens and all(one is None for one in varying)

    @property
    def only_bans(self) -> bool:
        """True where they only ban tokens, the same ones at any time."""
        return self.are_fixed(0) and self._allowed is None and bool((self._late[1] == -math.inf).all())

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        """Returns which tokens are allowed, None for all. Raises ConstraintError."""
        return self._now(generated).table

    def few(self, generated: Sequence[int]) -> Ids | None:
        """Returns the allowed tokens, ascending, where they are few enough to ask for each.

        Raises ConstraintError.
        """
        return self._now(generated).few

    def _now(self, generated: Sequence[int]) -> _Allowed:
        """Returns what is allowed behind these tokens; the mask is asked once for each of them."""
        if self._mask is not None and self._last.num_generated != len(generated):
            self._last = self._ask(self._mask, generated)
        if self._last.error is not None:
            raise self._last.error
        return self._last

    def _ask(self, mask: TokenMask, generated: Sequence[int]) -> _Allowed:
        try:
            table = mask.allowed(generated)
        except ConstraintError as error:
            return _Allowed(len(generated), None, None, error)
        if table is None:
            return self._found(len(generated), self._allowed)
        assert table.shape == (self._vocabulary_size,), table.shape
        return self._found(len(generated), table if self._allowed is None else table & self._allowed)

    @staticmethod
    def _found(num_generated: int, table: Bools | None) -> _Allowed:
        if table is None or np.count_nonzero(table) > MAX_ALLOWED_ASKED:
            return _Allowed(num_generated, table, None)
        return _Allowed(num_generated, table, np.flatnonzero(table))

    @property
    def is_masked(self) -> bool:
        """Tells whether what is allowed follows from what was generated."""
        return self._mask is not None

    def banned(self, generated: Sequence[int]) -> Ids:
        """The tokens that are never picked, ascending."""
        ids, values = self._additions(generated)
        banned: Ids = ids[values == -math.inf]
        return banned

    def num_spare(self, generated: Sequence[int]) -> int:
        """Counts the candidates to ask for beyond what the stages need, as changes may push some back."""
        if self._mask is not None or self._allowed is not None:
            return SPARE_CANDIDATES
        spare = min(SPARE_FOR_BANS, self._additions(generated)[0].size)
        for penalties in (self.repetition, self.dry):
            if penalties is not None:
                spare += min(SPARE_CANDIDATES, penalties.ids(generated).size)
        return spare

    def ids(self, generated: Sequence[int]) -> tuple[Ids, Ids]:
        """The tokens whose logits change, and those whose may become higher; ascending."""
        added, values = self._additions(generated)
        changed, raised = [added], [added[values > 0]]
        if self.repetition is not None:
            changed.append(self.repetition.ids(generated))
            if self.repetition.raises:
                raised.append(changed[-1])
        if self.dry is not None:
            changed.append(self.dry.ids(generated))
        return _united(changed), _united(raised)

    def apply(self, pool: Pool, allowed: Bools | None, generated: Sequence[int]) -> Pool:
        """The pool with bans and biases, of the allowed tokens, before any stage."""
        ids, values = self._additions(generated)
        if ids.size:
            pool = pool.changed(ids, lambda places, logits: logits + values[places], values > 0)
        return pool if allowed is None else pool.kept(allowed)

    def _additions(self, generated: Sequence[int]) -> tuple[Ids, Logits]:
        return self._early if len(generated) < self._min_tokens else self._late


def _united(parts: list[Ids]) -> Ids:
    """All ids of parts that each ascend, ascending."""
    parts = [part for part in parts if part.size]
    if len(parts) > 1:
        united: Ids = np.unique(np.concatenate(parts))
        return united
    return parts[0] if parts else np.zeros(0, np.int64)


def check_token_ids(params: SamplingParams, vocabulary_size: int) -> None:
    """Raises ValueError where the parameters name tokens that the vocabulary does not hold."""
    for name in ("allowed_token_ids", "bad_token_ids", "stop_token_ids", "logit_bias"):
        highest = max(getattr(params, name) or (), default=0)
        if highest >= vocabulary_size:
            raise ValueError(f"{name} must be tokens from 0 to {vocabulary_size - 1}, not {highest}")


@functools.lru_cache(maxsize=8)
def _ban_table(banned: frozenset[int], vocabulary_size: int) -> Bools:
    """Returns a table of the vocabulary that is true for banned tokens."""
    table = np.zeros(vocabulary_size, np.bool_)
    table[[token for token in banned if token < vocabulary_size]] = True
    return table


def _additions(banned: Collection[int], params: SamplingParams, vocabulary_size: int) -> tuple[Ids, Logits]:
    """The tokens whose logits change before any stage, ascending, and what is added to each."""
    values = {**(params.logit_bias or {}), **dict.fromkeys(banned, -math.inf)}
    ids = sorted(token for token in values if token < vocabulary_size)
    return np.array(ids, np.int64), np.array([values[token] for token in ids], np.float64)
