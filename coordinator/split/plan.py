"""Plans a split: layers over stages; heads, FFN columns and vocabulary rows over ranks of unequal weight.

Pure arithmetic on counts. Knows no device, no file and no process.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec

MAX_RANKS = 64  # of a run
MAX_GROUP = 8  # ranks of one stage, which all-reduce among themselves
MAX_WEIGHT = 1e15  # of a rank: more than any device has bytes, and sums stay finite
COLUMN_TILE = 32  # kernels walk a weight row in tiles of 32 columns; shards are padded to whole tiles


class PlanError(ValueError):
    """The split is impossible; the message says why in one sentence."""


@dataclass(frozen=True)
class Span:
    """The half-open range [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.stop, f"a span from {self.start} to {self.stop}"

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}..{self.stop - 1}" if len(self) else "none"

    def scaled(self, factor: int) -> Span:
        """The same pieces, each `factor` elements long."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True)
class LayerShare:
    """The part of one layer that one rank holds. Spans are empty for parts that the layer has not."""

    heads: Span  # query heads
    kv_heads: Span  # those that the query heads read; neighbours may hold the same one
    feed_forward: Span  # columns of gate and up, rows of down's input
    recurrent: Span = Span(0, 0)  # heads of a recurrent part, or channels of a short convolution
    groups: Span = Span(0, 0)  # those that these heads are of; neighbours may hold the same one
    experts: Span = Span(0, 0)
    expert_columns: Span = Span(0, 0)  # of each of these experts


@dataclass(frozen=True)
class RankShare:
    """One rank's part of every layer of its stage, and its slice of the output's vocabulary rows."""

    rank: int
    layers: tuple[LayerShare, ...]
    vocabulary: Span  # none but in the last stage, which has the output
    index: int = 0  # among the ranks of its stage
    first_layer: int = 0  # of its stage; the first stage has the embeddings, too
    routers: tuple[int, ...] = ()  # those among the ranks of its stage that hold experts, and so route rows

    @property
    def stage_layers(self) -> Span:
        """The layers that its stage computes."""
        return Span(self.first_layer, self.first_layer + len(self.layers))

    @property
    def holds_experts(self) -> bool:
        """Tells whether it needs to know which experts rows go to."""
        return any(len(layer.experts) for layer in self.layers)

    @property
    def begins(self) -> bool:
        """Tells whether its stage is the first."""
        return not self.first_layer

    def ends(self, spec: ModelSpec) -> bool:
        """Tells whether its stage is the last."""
        return self.stage_layers.stop == spec.num_layers

    def held(self, spec: ModelSpec) -> Iterator[tuple[int, LayerSpec, LayerShare]]:
        """Yields the layers of its stage: the number in the model, the layer, and the rank's part of it."""
        layers = spec.layers[self.first_layer : self.stage_layers.stop]
        for place, (layer, share) in enumerate(zip(layers, self.layers, strict=True)):
            yield self.first_layer + place, layer, share


@dataclass(frozen=True)
class Stage:
    """Neighbouring layers, and the neighbouring ranks that compute them together."""

    ranks: Span
    layers: Span


def split(total: int, weights: Sequence[float], unit: int = 1) -> list[Span]:
    """Cuts `total` pieces into one span per weight, in proportion, at multiples of `unit`.

    The cuts are the rounded cumulative shares, so every rank is within one unit of its exact share.
    Spans may be empty when there are more ranks than pieces.
    """
    sum_of_weights = math.fsum(weights)
    cuts = [0]
    for rank in range(len(weights)):
        exact = total * (math.fsum(weights[: rank + 1]) / sum_of_weights)
        cut = math.floor(exact / unit + 0.5) * unit if exact < total else total
        cuts.append(min(total, max(cuts[-1], cut)))
    cuts[-1] = total
    return [Span(start, stop) for start, stop in itertools.pairwise(cuts)]


def make_plan(
    spec: ModelSpec,
    weights: Sequence[float],
    expert_split: str = "columns",
    stages: Sequence[Stage] = (),
    expert_weights: Sequence[float] | None = None,
) -> tuple[RankShare, ...]:
    """One share per rank weight. Raises PlanError for a rank count or weights that can't be.

    expert_split: whether a rank holds its columns of all experts, or all columns of its experts. stages: they
    cut up all layers and all ranks, in order; without any there is one. expert_weights: the ranks' for
    experts, those that all rows go to not among them; None for the same as for all else.
    """
    if len(weights) > MAX_RANKS:
        raise PlanError(f"{len(weights)} ranks; from 1 to {MAX_RANKS} are possible")
    routed = weights if expert_weights is None else expert_weights
    for weight in (*weights, *routed):
        if not 0 <= weight <= MAX_WEIGHT:
            raise PlanError(f"a rank weight of {weight}; weights are numbers from 0 to {MAX_WEIGHT:g}")
    assert expert_split in EXPERT_SPLITS, f"experts split by {expert_split!r}"
    stages = stages or (Stage(Span(0, len(weights)), Span(0, spec.num_layers)),)
    pairs = list(zip(weights, routed, strict=True))
    return tuple(itertools.chain(*(_split_stage(spec, stage, pairs, expert_split) for stage in stages)))


def _split_stage(
    spec: ModelSpec, stage: Stage, weights: Sequence[tuple[float, float]], expert_split: str
) -> Iterator[RankShare]:
    """Yields the shares of a stage's ranks. weights: of all ranks, each with that for experts."""
    pairs = weights[stage.ranks.start : stage.ranks.stop]
    own, routed = tuple(weight for weight, _ in pairs), tuple(weight for _, weight in pairs)
    where = "" if len(own) == len(weights) else " of a stage"
    if not 1 <= len(own) <= MAX_GROUP:
        raise PlanError(f"{len(own)} ranks{where}; from 1 to {MAX_GROUP} are possible")
    if not sum(own) > 0:
        raise PlanError(f"all rank weights{where} are 0; at least one must be more")
    held_layers = spec.layers[stage.layers.start : stage.layers.stop]
    if any(layer.experts is not None for layer in held_layers) and not sum(routed) > 0:
        raise PlanError(f"all rank weights{where} for experts are 0; at least one must be more")

    @functools.cache
    def split_layer(layer: LayerSpec) -> list[LayerShare]:
        return _split_layer(layer, own, routed, expert_split)

    layers = [split_layer(layer) for layer in held_layers]
    routers = tuple(rank for rank in range(len(own)) if any(len(shares[rank].experts) for shares in layers))
    has_output = stage.layers.stop == spec.num_layers
    vocabulary = split(spec.vocabulary_size, own) if has_output else [NOTHING] * len(own)
    for index, rank in enumerate(range(stage.ranks.start, stage.ranks.stop)):
        held = tuple(shares[index] for shares in layers)
        yield RankShare(rank, held, vocabulary[index], index, stage.layers.start, routers)


EXPERT_SPLITS = ("columns", "experts")
NOTHING = Span(0, 0)


def _split_layer(
    layer: LayerSpec, weights: Sequence[float], expert_weights: Sequence[float], expert_split: str
) -> list[LayerShare]:
    """One share a rank."""
    attention, feed_forward = layer.attention, layer.feed_forward
    heads = kv_heads = columns = recurrent = groups = [NOTHING] * len(weights)
    experts = expert_columns = heads
    if attention is not None:
        heads = _split_heads(attention.num_heads, attention.num_kv_heads, weights)
        kv_heads = [covering(span, attention.heads_per_kv_head) for span in heads]
    if feed_forward is not None:
        columns = _split_columns(feed_forward.length, weights)
    if layer.recurrent is not None:
        recurrent = _split_recurrent(layer.recurrent, weights)
        groups = [groups_of(layer.recurrent, span) for span in recurrent]
    if layer.experts is not None:
        experts, expert_columns = _split_experts(layer.experts, expert_weights, expert_split)
    spans = zip(heads, kv_heads, columns, recurrent, groups, experts, expert_columns, strict=True)
    return [LayerShare(*held) for held in spans]


def _split_experts(
    experts: ExpertsSpec, weights: Sequence[float], expert_split: str
) -> tuple[list[Span], list[Span]]:
    """The experts of every rank, and the columns of each of these; both empty where a rank holds nothing."""
    if expert_split == "experts":
        held, whole = split(experts.count, weights), Span(0, experts.length)
        return held, [whole if len(span) else NOTHING for span in held]
    columns = _split_columns(experts.length, weights)
    everyone = Span(0, experts.count)
    return [everyone if len(span) else NOTHING for span in columns], columns


def _split_columns(length: int, weights: Sequence[float]) -> list[Span]:
    return split(length, weights, _column_unit(length, len(weights)))


def _split_heads(num_heads: int, num_groups: int, weights: Sequence[float]) -> list[Span]:
    """Splits by whole groups while there are enough of them, else by head; groups are replicated then."""
    if num_groups >= len(weights):
        return [span.scaled(num_heads // num_groups) for span in split(num_groups, weights)]
    return split(num_heads, weights)


def _split_recurrent(recurrent: RecurrentSpec, weights: Sequence[float]) -> list[Span]:
    if not recurrent.has_heads:  # channels, which are the columns of the output projection
        return split(recurrent.num_heads, weights, _column_unit(recurrent.num_heads, len(weights)))
    num_groups = recurrent.num_heads if recurrent.tiled else recurrent.num_groups
    return _split_heads(recurrent.num_heads, num_groups, weights)


def groups_of(recurrent: RecurrentSpec, heads: Span) -> Span:
    """The groups whose queries and keys some heads need; all, where these are not neighbours."""
    if not recurrent.has_heads or not len(heads):
        return NOTHING
    if not recurrent.tiled:
        return covering(heads, recurrent.heads_per_group)
    first, num_groups = heads.start % recurrent.num_groups, recurrent.num_groups
    stop = first + len(heads)
    return Span(first, stop) if stop <= num_groups else Span(0, num_groups)


def covering(span: Span, unit: int) -> Span:
    """Returns the units of `unit` pieces that the span touches."""
    return Span(span.start // unit, -(-span.stop // unit)) if len(span) else Span(0, 0)


def _column_unit(columns: int, num_ranks: int) -> int:
    """Cuts at whole quantisation blocks cost no block twice, but only where the imbalance stays under 2 %."""
    return next((unit for unit in (256, 32) if columns >= 50 * unit * num_ranks), 1)


def padded(columns: int) -> int:
    """Returns so many columns rounded up to whole tiles."""
    return -(-columns // COLUMN_TILE) * COLUMN_TILE
