"""The work of a rank in the steps that are predicted: by layer and beside the layers. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import Span
from tplaunch.launcher.predicting.seconds import NOTHING, Seconds, added


@dataclass(frozen=True)
class Work:
    """One step of one rank, without the other ranks and the coordinator."""

    layers: tuple[Seconds, ...]
    rest: Seconds = NOTHING  # before and behind them: mostly the product with the vocabulary

    def of(self, layers: Span) -> Seconds:
        """Returns what these layers take; the last ones with what comes behind them."""
        seconds = added(list(self.layers[layers.start : layers.stop]))
        return seconds + self.rest if layers.stop == len(self.layers) else seconds


@dataclass(frozen=True)
class RankWork:
    """The steps of a rank that has a given share of every layer."""

    decode: Work  # of one sequence, at the beginning of its context
    decode_far: Work  # the same at the end of the context
    together: Mapping[int, Work]  # of sequences together, by how many there are
    first_chunk: Work | None  # of the prompt; None where a device is not described so far
    last_chunk: Work | None  # which alone gets logits
    is_behind: bool = False  # it computes a part of every layer once the group's other ranks have theirs

    def chunk(self, index: int, num_chunks: int) -> Work:
        """Each sees more keys than the one before, so it takes longer by as much."""
        first, last = self.first_chunk, self.last_chunk
        assert first is not None and last is not None, "no prefill is known"
        if index == num_chunks - 1:
            return last
        part = index / (num_chunks - 1)
        layers = zip(first.layers, last.layers, strict=True)
        return Work(tuple(one * (1 - part) + other * part for one, other in layers), first.rest)
