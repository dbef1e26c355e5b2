"""Picks the tokens of one sequence: says what it needs of the next logits, and picks from what it is given.

Pure arithmetic; knows no device, socket or text. What is picked is what the whole row of logits gives, to the
bit, whether it is picked from candidates or from the row.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from tplaunch.coordinator.likeliest import log_sum
from tplaunch.coordinator.serving.sampling import stages
from tplaunch.coordinator.serving.sampling.changes import Changes
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError, TokenMask
from tplaunch.coordinator.serving.sampling.demand import (
    FIRST_GUESS,
    MAX_ASKED,
    MAX_CANDIDATES,
    active_stages,
    demand,
)
from tplaunch.coordinator.serving.sampling.evidence import (
    NO_TOKENS,
    Floats,
    RowEvidence,
    Wants,
    evidence_of,
)
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.penalties import TokenBytes
from tplaunch.coordinator.serving.sampling.picked import Picked, describe, described
from tplaunch.coordinator.serving.sampling.pool import (
    Bools,
    LogitsError,
    NeedsRow,
    Pool,
    all_ruled_out,
    check_logits,
    sorted_pool,
)
from tplaunch.coordinator.serving.sampling.random_numbers import RandomNumbers

MANY_CANDIDATES = 8192  # quicker to find than all are to sort
PLAIN_STAGES = ("top_k", "top_p", "min_p", "temperature")
LEAST_PLAIN_TEMPERATURE = 1e-200  # below it float64 may overflow


class Sampler:
    """Picks tokens for one sequence, the same ones at any time for the same logits, seed and position."""

    def __init__(
        self,
        params: SamplingParams,
        vocabulary_size: int,
        *,
        prompt_ids: Sequence[int] = (),
        suppressed: Collection[int] = (),
        end_ids: Collection[int] = (),
        token_bytes: TokenBytes | None = None,
        mask: TokenMask | None = None,
        index: int = 0,
    ) -> None:
        """suppressed: tokens that are never picked; end_ids: tokens that are not before min_tokens, the
        model's and the request's; token_bytes: each token's text, for DRY's breakers; index: of this text
        among params.n.

        Raises ValueError for token ids in the parameters that the vocabulary does not hold.
        """
        self.params, self.vocabulary_size = params, vocabulary_size
        self._stages = active_stages(params)
        self._demand = demand(params, self._stages)
        self._changes = Changes(
            params, vocabulary_size, self._stages, prompt_ids, suppressed, end_ids, token_bytes, mask
        )
        self._guess = FIRST_GUESS
        self._numbers = RandomNumbers(params.seed, index)
        self._chances = RandomNumbers(params.seed, index, purpose=1)
        self._fixed: Wants | None = None  # what is wanted where that never changes
        self.min_p_logit = math.log(params.min_p) if params.min_p > 0 else -math.inf
        self.is_plain = self._is_plain()
        # A plain sampler keeps so many tokens, top-p, log(min-p), and the temperature, each as it counts.
        self.plain = (
            (1.0, 1.0, -math.inf, 1.0)
            if params.is_greedy
            else (
                float(params.top_k),
                params.top_p if "top_p" in self._stages else 1.0,
                self.min_p_logit if "min_p" in self._stages else -math.inf,
                params.temperature if "temperature" in self._stages else 1.0,
            )
        )

    def _is_plain(self) -> bool:
        """True where nothing but bans, top-k, top-p, min-p and the temperature, in this order, counts.

        Many such rows are picked at once (batch.py).
        """
        order = tuple(stage for stage in PLAIN_STAGES if stage in self._stages)
        return (
            self._changes.only_bans
            and self._stages == order
            and (self.params.logprobs or 0) <= MAX_CANDIDATES
            and (
                self.params.is_greedy
                or ("top_k" in order and self.params.temperature >= LEAST_PLAIN_TEMPERATURE)
            )
        )

    @property
    def ban_table(self) -> Bools | None:
        """A plain sampler's table of the vocabulary, true for tokens that it never picks; None for none.

        Samplers with the same ones share a table.
        """
        return self._changes.ban_table

    def number(self, position: int) -> float:
        """The random number that picks the token at a position."""
        return self._numbers.at(position)

    def wants(self, generated: Sequence[int]) -> Wants:
        """Returns what the ranks shall tell of the logits behind these tokens."""
        if self._fixed is not None and len(generated) >= self.params.min_tokens:
            return self._fixed
        wants = self._wants(generated)
        if self._changes.are_fixed(len(generated)):
            self._fixed = wants
        return wants

    def _wants(self, generated: Sequence[int]) -> Wants:
        num_top, has_logprobs = self.params.logprobs or 0, self.params.logprobs is not None
        try:
            need, allowed = self._demand, self._changes.allowed(generated)
        except ConstraintError:  # whoever picks hears of it
            return Wants(1)
        few = self._changes.few(generated)
        if few is not None:
            return Wants(self._at_most(max(1, num_top)), has_logprobs, few.astype(np.int32))
        changed, raised = self._changes.ids(generated)
        asked = changed if need.log_sum else raised
        if (
            (need.whole_row or num_top > MAX_CANDIDATES or asked.size > MAX_ASKED)
            # The ranks' sum is of all tokens, the allowed ones' is not known.
            or (need.log_sum and allowed is not None)
        ):
            return Wants(self._at_most(max(1, num_top)), has_logprobs, NO_TOKENS, whole_row=True)
        count = (need.num_candidates or self._guess) + self._changes.num_spare(generated)
        count = self._at_most(max(count, num_top))
        return Wants(count, need.log_sum or has_logprobs, asked.astype(np.int32))

    def _at_most(self, count: int) -> int:
        return min(count, self.vocabulary_size, MAX_CANDIDATES)

    def pick(self, evidence: RowEvidence, position: int, generated: Sequence[int]) -> Picked:
        """The token at this position of the sequence, behind the generated ones.

        evidence: as wants(generated) asked for it. Raises NeedsRow where only the whole row tells (pick_row),
        LogitsError where no token can be picked.
        """
        token = self._pick_of_some(evidence, position, generated)
        if self.params.logprobs is None:
            return Picked(token)
        return describe(evidence, token, self.params.logprobs)

    def pick_row(
        self, row: Floats, position: int, generated: Sequence[int], total: float | None = None
    ) -> Picked:
        """The same from the whole row [vocabulary] float32, which is not written to.

        total: the row's log-sum-exp as the ranks gave it, for log probabilities. Raises LogitsError for
        NaN and +inf, which say that the model's arithmetic went wrong, and where no token is possible.
        """
        if row.shape != (self.vocabulary_size,):
            raise LogitsError(f"logits must be one row of the vocabulary, not of shape {row.shape}")
        token = self._pick_of_row(row, position, generated)
        if self.params.logprobs is None:
            return Picked(token)
        total = log_sum(row) if total is None or math.isnan(total) else total
        likeliest = evidence_of(row, Wants(max(1, self.params.logprobs)))
        return described(token, float(row[token]), total, likeliest, self.params.logprobs)

    def _pick_of_row(self, row: Floats, position: int, generated: Sequence[int]) -> int:
        """Sorts no more of the row than is needed."""
        wants = self.wants(generated)
        try:
            return self._pick_of_some(evidence_of(row, wants), position, generated)
        except NeedsRow:
            if not (wants.whole_row or self._demand.num_candidates):
                self._guess, self._fixed = min(2 * self._guess, MAX_CANDIDATES), None
        if not self._demand.whole_row:
            with contextlib.suppress(NeedsRow):
                many = replace(wants, num_candidates=min(MANY_CANDIDATES, row.size))
                evidence = evidence_of(_masked(row, self._changes.allowed(generated)), many)
                return self._pick_of_some(evidence, position, generated)
        return self._pick_of_all(row, position, generated)

    def _pick_of_some(self, evidence: RowEvidence, position: int, generated: Sequence[int]) -> int:
        allowed, few = self._changes.allowed(generated), self._changes.few(generated)
        if not evidence.sound or (few is None and self._demand.whole_row):
            raise NeedsRow
        if evidence.complete and not evidence.ids.size:
            raise all_ruled_out(self.vocabulary_size)
        pool = evidence.pool() if few is None else evidence.asked_pool()
        return self._pick(pool, allowed, position, generated)

    def _pick_of_all(self, row: Floats, position: int, generated: Sequence[int]) -> int:
        logits = row.astype(np.float64)
        logits[self._changes.banned(generated)] = -np.inf
        check_logits(logits)
        pool = sorted_pool(np.arange(logits.size), logits)
        return self._pick(pool, self._changes.allowed(generated), position, generated)

    def _pick(self, pool: Pool, allowed: Bools | None, position: int, generated: Sequence[int]) -> int:
        pool = self._changes.apply(pool, allowed, generated)
        for stage in self._stages:
            self._check_any(pool)
            pool = self._run(stage, pool, position, generated)
        self._check_any(pool)
        place = 0 if self.params.is_greedy else stages.draw(pool, self._numbers.at(position))
        return int(pool.ids[place])

    def _check_any(self, pool: Pool) -> None:
        if pool.ids.size:
            return
        pool.need_complete()
        if self._changes.is_masked:
            raise ConstraintError(
                "the tokens that the grammar or the end of the reasoning asks for are all ruled out: by the"
                " model, or by min_tokens, logit_bias, allowed_token_ids or bad_token_ids"
            )
        raise ConstraintError("every token is ruled out, which leaves none to pick")

    def _run(self, stage: str, pool: Pool, position: int, generated: Sequence[int]) -> Pool:
        params, changes = self.params, self._changes
        if stage == "penalties" and changes.repetition is not None:
            return changes.repetition.apply(pool, generated)
        if stage == "dry" and changes.dry is not None:
            return changes.dry.apply(pool, generated)
        if stage == "top_k":
            return stages.keep_top_k(pool, params.top_k)
        if stage == "top_p":
            return stages.keep_top_p(pool, params.top_p)
        if stage == "min_p":
            return stages.keep_min_p(pool, self.min_p_logit)
        if stage == "typical_p":
            return stages.keep_typical(pool, params.typical_p)
        if stage == "top_n_sigma":
            return stages.keep_within_sigmas(pool, params.top_n_sigma)
        if stage == "xtc":
            strikes = self._chances.at(position) < params.xtc_probability
            return stages.leave_out_top_choices(pool, params.xtc_threshold) if strikes else pool
        assert stage == "temperature", stage
        return stages.scale(pool, params.temperature)


def _masked(row: Floats, allowed: Bools | None) -> Floats:
    """The row with -inf for tokens that are not allowed; as it is where one of its logits is no number."""
    if allowed is None or not math.isfinite(row.max()):
        return row
    masked: Floats = np.where(allowed, row, np.float32(-np.inf))
    return masked
