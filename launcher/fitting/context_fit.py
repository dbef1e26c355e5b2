"""Chooses the sizes that the user leaves open, so that a plan fits: context, rows, blocks and snapshots."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import AUTO, Limits
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.fit import RankNeeds, bytes_in, exceeds_allocation, rank_needs
from tplaunch.launcher.fitting.kv_sizes import (
    BLOCK_LENGTH,
    MIN_SNAPSHOTS,
    blocks_for,
    full_blocks,
    most_snapshots,
    window_blocks,
)
from tplaunch.launcher.fitting.memory_places import MemoryPlace
from tplaunch.launcher.model import Model

DEFAULT_CONTEXT = 4096  # at most, where a device's memory is not known
MIN_LOGIT_ROWS, MAX_LOGIT_ROWS = 32, 128  # of a step: one for each sequence
MAX_ROWS, MIN_ROWS = 256, 16  # of a step, where the user does not say
MAX_WORK_BYTES = 64_000_000  # that a step may take beside weights and KV cache; rows are halved to get there
# The same where no rank computes on a CPU: cards use weights that they have read for more rows, and what
# a step costs by itself counts more there.
MAX_ROWS_OF_CARDS, MAX_WORK_BYTES_OF_CARDS = 512, 160_000_000

# The features that multiply such activations, as coordinator.options.FEATURES names them for --without.
ACTIVATION_FEATURES = {
    "f16": frozenset(("cooperative_matrix", "float16")),
    "q8": frozenset(("integer_dot_product",)),
}


@dataclass(frozen=True)
class Sizes:
    """The sizes that were chosen, and the context that would be possible."""

    limits: Limits
    largest_context: int | None  # that fits, at most the trained one; None where a device is not known
    limited_by: str | None  # the place that has no room for more


def needs_for(
    config: RunConfig, model: Model, plan: Sequence[RankShare], choices: Sequence[DeviceChoice]
) -> list[RankNeeds]:
    """Returns the needs of each rank of a run with these options."""
    return rank_needs(
        model.spec,
        model.tensors,
        plan,
        choices,
        collective=config.collective,
        staging=config.staging,
        moves=config.moves_sums,
    )


def activations_on(config: RunConfig, choices: Sequence[DeviceChoice]) -> str:
    """Returns the activations of a run on these devices: without matrices there is nothing to choose."""
    has_matrices = ACTIVATION_FEATURES["f16"].isdisjoint(config.without) and any(
        choice.index is not None and "f16" not in choice.lacks for choice in choices
    )
    return "f32" if config.activations == AUTO and not has_matrices else config.activations


class Fitting:
    """A plan's needs, held against the places where its ranks' memory lies."""

    def __init__(
        self,
        config: RunConfig,
        needs: Sequence[RankNeeds],
        places: Sequence[MemoryPlace],
        choices: Sequence[DeviceChoice],
    ) -> None:
        self._config, self._needs, self._places, self._choices = config, needs, places, choices
        self._activations = activations_on(config, choices)
        are_cards = not any(choice.on_cpu for choice in choices)
        self._max_rows = MAX_ROWS_OF_CARDS if are_cards else MAX_ROWS
        self._max_work_bytes = MAX_WORK_BYTES_OF_CARDS if are_cards else MAX_WORK_BYTES
        self._keeps_states = any(rank.keeps_states for rank in needs)
        self._fewest_snapshots = MIN_SNAPSHOTS if self._keeps_states and config.state_cache_bytes else 0

    def choose_sizes(self, trained: int) -> Sizes:
        """trained: the context that the model was trained for.

        Without --context that one, where it fits, else the largest that does; but at most DEFAULT_CONTEXT
        where it is not known what a device holds. Further sequences and snapshots get what is left.
        """
        caps = self._config.max_memory
        is_known = not any(
            choice.is_unknown and choice.index not in caps and not choice.caps[0] for choice in self._choices
        )
        if self.limit(self._config.context_length or BLOCK_LENGTH, keep_reserve=False) is not None:
            self._fewest_snapshots = 0
        largest = self.largest_context(trained) or self.largest_context(trained, keep_reserve=False)
        context = self._config.context_length
        if context is None:
            most = trained if is_known else min(trained, DEFAULT_CONTEXT)
            context = min(most, largest or BLOCK_LENGTH)
        limits = self._widened(context, is_known)
        if not is_known:
            return Sizes(limits, None, None)
        return Sizes(limits, largest, self.limit(largest + BLOCK_LENGTH) if largest < trained else None)

    def _widened(self, context: int, is_known: bool) -> Limits:
        """Adds blocks for further sequences, and then snapshots, as far as they are wanted and fit."""
        rows = self._config.max_rows or self._rows(context)

        def limits(further: int, snapshots: int) -> Limits:
            return self.limits(context, rows, further, snapshots)

        fewest = self._fewest_snapshots
        further = most_that(self._config.parallel - 1, lambda count: self._fits(limits(count, fewest)))
        if not (fewest and is_known):
            return limits(further, fewest)
        least = limits(further, fewest)
        state_bytes = sum(rank.bytes(least).states for rank in self._needs) // least.num_slots
        wanted = self._config.state_cache_bytes // max(1, state_bytes)
        wanted = min(wanted, most_snapshots(context, further, self._config.parallel))
        return limits(
            further, max(fewest, most_that(wanted, lambda count: self._fits(limits(further, count))))
        )

    def limits(
        self, context: int, rows: int | None = None, further: int = 0, snapshots: int | None = None
    ) -> Limits:
        """Returns limits with as many rows as the user wants, or else as MAX_WORK_BYTES leave room for.

        further: sequences that have blocks of their own, besides one whole context. snapshots: of recurrent
        states, as few as possible where nothing is said.
        """
        rows = rows or self._config.max_rows or self._rows(context)
        parallel, needs = self._config.parallel, self._needs[0]
        logit_rows = MAX_LOGIT_ROWS if self._config.reads_texts else min(parallel, MAX_LOGIT_ROWS)
        snapshots = self._fewest_snapshots if snapshots is None else snapshots
        window = needs.longest_window
        return Limits(
            context_length=context,
            num_blocks=full_blocks(context, further) if needs.sees_all else 0,
            block_length=BLOCK_LENGTH,
            max_rows=rows,
            max_logit_rows=min(rows, max(MIN_LOGIT_ROWS, logit_rows)),
            kv_type=self._config.kv_type,
            activations=self._activations,
            num_slots=parallel + snapshots if self._keeps_states else 0,
            max_sequences=parallel,
            num_window_blocks=window_blocks(window, context, further, rows) if window else 0,
        )

    def _row_counts(self) -> list[int]:
        if self._config.max_rows is not None:
            return [self._config.max_rows]
        return [self._max_rows >> halved for halved in range((self._max_rows // MIN_ROWS).bit_length())]

    def _rows(self, context: int) -> int:
        counts = self._row_counts()
        return next((rows for rows in counts if self._works(context, rows)), counts[-1])

    def _works(self, context: int, rows: int) -> bool:
        """Tells whether every rank's work stays small, or rows can't be fewer."""
        limits = self.limits(context, rows)
        small = all(rank.work(limits) <= self._max_work_bytes for rank in self._needs)
        return small or rows == self._row_counts()[-1]

    def limit(self, context: int, rows: int | None = None, *, keep_reserve: bool = True) -> str | None:
        """The place that has no room for so many positions; None where they fit."""
        return self._limit_of(self.limits(context, rows), keep_reserve=keep_reserve)

    def _fits(self, limits: Limits) -> bool:
        return self._limit_of(limits) is None

    def _limit_of(self, limits: Limits, *, keep_reserve: bool = True) -> str | None:
        for rank, (needs, choice) in enumerate(zip(self._needs, self._choices, strict=True)):
            if exceeds_allocation(needs, choice, limits):
                return f"{choice.title}, for one buffer of rank {rank}"
        found = [rank.bytes(limits) for rank in self._needs]
        for place in self._places:
            if not place.has_room(bytes_in(place, found), keep_reserve=keep_reserve):
                return place.name
        return None

    def largest_context(self, most: int, *, keep_reserve: bool = True) -> int:
        """Up to `most`; 0 where not even a block of positions fits.

        Fewer rows leave room for more positions: they are halved only as far as MAX_WORK_BYTES ask for,
        because long contexts need more work, not to gain a few positions.
        """
        best = 0
        for rows in self._row_counts():
            within = _largest(most, functools.partial(self._works, rows=rows))
            fitting = _largest(
                within, functools.partial(self._has_room, rows=rows, keep_reserve=keep_reserve)
            )
            best = max(best, fitting)
            if fitting < within or within == most:
                break
        return best

    def _has_room(self, context: int, rows: int, keep_reserve: bool) -> bool:
        return self.limit(context, rows, keep_reserve=keep_reserve) is None


def _largest(most: int, is_possible: Callable[[int], bool]) -> int:
    """The largest multiple of BLOCK_LENGTH for which it is possible, or `most` itself; 0 for none.

    What is possible for some context must be so for all shorter ones.
    """
    if most == 0 or is_possible(most):
        return most
    blocks = blocks_for(most) - 1
    return BLOCK_LENGTH * most_that(blocks, lambda count: is_possible(count * BLOCK_LENGTH))


def most_that(most: int, is_possible: Callable[[int], bool]) -> int:
    """The largest count up to `most` for which it is possible; 0 where it is for none."""
    if most <= 0 or is_possible(most):
        return max(0, most)
    low, high = 0, most  # `high` is not possible
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_possible(middle) else (low, middle)
    return low
