"""Smaller models of a model's own layers: what a layer takes is the difference between two of them.

Layers of one kind have the same parts, shares and weight types. A sample has several of each kind, so that no
cache holds them; its weights are made up. Pure data: nothing here runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec
from tplaunch.coordinator.split.plan import LayerShare, RankShare
from tplaunch.launcher.predicting.seconds import Seconds
from tplaunch.launcher.predicting.work import Work

MAX_KINDS = 4  # that are measured; others count as the measured one that is most like them


@dataclass(frozen=True)
class Kinds:
    """The kinds of a model's layers: the layers that stand for one, by their number, and each layer's."""

    examples: tuple[int, ...]  # by kind
    kinds: tuple[int, ...]  # by layer
    scales: tuple[float, ...]  # by layer: its weights, in those of its example
    weight_bytes: tuple[int, ...]  # by kind, of the whole layer

    @property
    def counts(self) -> tuple[int, ...]:
        """Layers of each kind."""
        return tuple(self.kinds.count(kind) for kind in range(len(self.examples)))


def layer_kinds(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> Kinds:
    """Finds the kinds of layers, of which the first MAX_KINDS by the number of layers are kept."""
    held: list[list[TensorInfo]] = [[] for _ in spec.layers]
    for name, tensor in tensors.items():
        index = layer_of(name)
        if index is not None and index < len(held):
            held[index].append(tensor)
    looks: dict[tuple[LayerSpec, frozenset[tuple[str, str, tuple[int, ...]]]], list[int]] = {}
    for index, layer in enumerate(spec.layers):
        parts = frozenset((_inner(tensor.name), tensor.type, tensor.shape) for tensor in held[index])
        looks.setdefault((layer, parts), []).append(index)
    found = sorted(looks.values(), key=lambda layers: (-len(layers), layers[0]))
    sizes = [sum(tensor.nbytes for tensor in layer) for layer in held]
    examples = tuple(layers[0] for layers in found[:MAX_KINDS])
    kinds = [0] * spec.num_layers
    for number, layers in enumerate(found):
        for index in layers:
            kinds[index] = number if number < len(examples) else _most_like(index, examples, spec, sizes)
    scales = tuple(sizes[index] / max(1, sizes[examples[kind]]) for index, kind in enumerate(kinds))
    return Kinds(examples, tuple(kinds), scales, tuple(sizes[index] for index in examples))


def _most_like(index: int, examples: Sequence[int], spec: ModelSpec, sizes: Sequence[int]) -> int:
    """The kind whose example has the same parts, and about as many weights."""

    def distance(kind: int) -> tuple[bool, int]:
        return _parts(spec, examples[kind]) != _parts(spec, index), abs(sizes[examples[kind]] - sizes[index])

    return min(range(len(examples)), key=distance)


def _parts(spec: ModelSpec, index: int) -> tuple[bool, ...]:
    layer = spec.layers[index]
    return layer.attention is None, layer.recurrent is None, layer.experts is None


def layer_of(name: str) -> int | None:
    """The layer of a tensor; None for one of the whole model."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdecimal() else None


def _inner(name: str) -> str:
    return name.split(".", 2)[2]


@dataclass(frozen=True)
class Sample:
    """A model of some layers of another one, in any order, as often as they are named."""

    counts: tuple[int, ...]  # by kind
    layers: tuple[int, ...]  # numbers in the whole model

    def spec(self, spec: ModelSpec) -> ModelSpec:
        return replace(spec, layers=tuple(spec.layers[index] for index in self.layers))

    def share(self, share: RankShare) -> RankShare:
        layers: tuple[LayerShare, ...] = tuple(share.layers[index] for index in self.layers)
        return replace(share, layers=layers)

    def tensors(self, tensors: Mapping[str, TensorInfo]) -> tuple[TensorInfo, ...]:
        places: dict[int, list[int]] = {}
        for place, index in enumerate(self.layers):
            places.setdefault(index, []).append(place)
        found = []
        for name, tensor in tensors.items():
            layer = layer_of(name)
            if layer is None:
                found.append(tensor)
                continue
            found += [replace(tensor, name=f"blk.{place}.{_inner(name)}") for place in places.get(layer, ())]
        return tuple(found)


def samples(kinds: Kinds, least_bytes: float) -> list[Sample]:
    """One more sample than there are kinds: a base, and for each kind one that has more of it.

    least_bytes: of weights that the base has of each kind, where the model has so many layers.
    """
    base, more = [], []
    for count, num_bytes in zip(kinds.counts, kinds.weight_bytes, strict=True):
        wanted = max(1, round(least_bytes / max(1, num_bytes)))
        base.append(max(1, min(wanted, count // 2)))
        more.append(min(max(1, count - base[-1]), max(2, base[-1])))
    found = [_sample(kinds, base)]
    for kind, added in enumerate(more):
        counts = [count + (added if other == kind else 0) for other, count in enumerate(base)]
        found.append(_sample(kinds, counts))
    return found


def _sample(kinds: Kinds, counts: Sequence[int]) -> Sample:
    layers = [index for index, count in zip(kinds.examples, counts, strict=True) for _ in range(count)]
    return Sample(tuple(counts), tuple(layers))


def work_of(kinds: Kinds, taken: Sequence[tuple[Sample, Seconds]]) -> Work:
    """Returns what each layer of the whole model takes, and the rest, from what the samples took.

    taken: as samples() has them, the base first.
    """
    (base, base_seconds), *others = taken
    each: list[Seconds] = []
    for kind, (sample, seconds) in enumerate(others):
        more = sample.counts[kind] - base.counts[kind]
        each.append(_positive((seconds + base_seconds * -1) * (1 / more)))
    rest = base_seconds
    for count, layer in zip(base.counts, each, strict=True):
        rest += layer * -count
    layers = tuple(each[kind] * scale for kind, scale in zip(kinds.kinds, kinds.scales, strict=True))
    return Work(layers, rest)


def _positive(seconds: Seconds) -> Seconds:
    """Differences of what is measured may be less than nothing."""
    return Seconds(max(0.0, seconds.device), max(0.0, seconds.dispatch))
