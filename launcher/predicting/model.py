"""Predicts the steps of a way from its ranks' work, its exchanges and its links. Pure arithmetic.

A stage's step takes as long as its slowest rank, and its all-reduces. One sequence goes through one stage
after the other; several, or the chunks of a prompt, through all of them at the same time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tplaunch.coordinator.serving.micro_batches import MicroBatches
from tplaunch.coordinator.split.plan import Span
from tplaunch.coordinator.split.stages import most_in_flight
from tplaunch.launcher.predicting.cluster import Cluster
from tplaunch.launcher.predicting.seconds import NOTHING, Seconds, added, longest
from tplaunch.launcher.predicting.ways import Way
from tplaunch.launcher.predicting.work import RankWork, Work
from tplaunch.worker.vulkan.variants import TILE_ROWS


@dataclass(frozen=True)
class Shape:
    """The model and the tests, as far as they matter beside the ranks' work."""

    num_layers: int
    row_bytes: int  # of the residual stream, in float32
    all_reduces: Mapping[int, int]  # of a step with logits, by the number of ranks in a group
    num_sequences: int  # that are decoded together
    chunk_rows: int
    num_chunks: int  # of the prompt

    @property
    def prompt_tokens(self) -> int:
        return self.chunk_rows * self.num_chunks


@dataclass(frozen=True)
class Rate:
    """Tokens per second, and the time between two of them by what it is spent on."""

    tokens_per_second: float
    seconds: Seconds  # of a step; of the whole prompt for a prefill

    @property
    def text(self) -> str:
        """Tokens per second in three digits."""
        rate = self.tokens_per_second
        return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"

    @property
    def limit(self) -> str:
        """The field of the seconds that has most of them."""
        return self.seconds.limit


@dataclass(frozen=True)
class Prediction:
    """The speed of a way."""

    way: Way
    layers: tuple[Span, ...]  # by stage
    decode: Rate
    decode_far: Rate
    together: Rate  # of several sequences
    prefill: Rate | None  # None where a device is not described so far


def predict(way: Way, shape: Shape, cluster: Cluster, works: Mapping[int, RankWork]) -> Prediction:
    """works: by the cluster's ranks, with their shares in this way's groups."""
    return _Predictor(way, shape, cluster, works).prediction()


class _Predictor:
    def __init__(self, way: Way, shape: Shape, cluster: Cluster, works: Mapping[int, RankWork]) -> None:
        self._way, self._shape, self._cluster, self._works = way, shape, cluster, works
        self._groups = [way.group(stage) for stage in range(way.placement.num_stages)]
        self._layers = self._split()

    def prediction(self) -> Prediction:
        shape = self._shape
        decode = self._sequence(lambda work: work.decode)
        far = self._sequence(lambda work: work.decode_far)
        together = self._together()
        return Prediction(
            self._way,
            self._layers,
            Rate(1 / decode.total, decode),
            Rate(1 / far.total, far),
            Rate(shape.num_sequences / together.total, together),
            self._prefill(),
        )

    def _split(self) -> tuple[Span, ...]:
        """Layers in stages such that the slowest stage is as quick as can be, in decode and prefill alike.

        Each counts by its part of what the whole model takes: so a run cuts them, too.
        """
        num_stages, num_layers = len(self._groups), self._shape.num_layers
        if num_stages == 1:
            return (Span(0, num_layers),)

        def decode(work: RankWork) -> Work:
            return work.decode

        def chunk(work: RankWork) -> Work:
            return work.first_chunk or work.decode

        whole = Span(0, num_layers)
        totals = [(kind, self._group_work(0, kind, whole).total or 1.0) for kind in (decode, chunk)]

        def seconds(stage: int, layers: Span) -> float:
            return sum(self._group_work(stage, kind, layers).total / total for kind, total in totals)

        @functools.cache
        def best(stage: int, start: int) -> tuple[float, tuple[int, ...]]:
            """The slowest stage from this one on, and the layers where they end."""
            if stage == num_stages - 1:
                return seconds(stage, Span(start, num_layers)), (num_layers,)
            last = num_layers - (num_stages - 1 - stage)
            return min(
                (
                    max(seconds(stage, Span(start, stop)), best(stage + 1, stop)[0]),
                    (stop, *best(stage + 1, stop)[1]),
                )
                for stop in range(start + 1, last + 1)
            )

        ends = best(0, 0)[1]
        return tuple(Span(start, stop) for start, stop in itertools.pairwise((0, *ends)))

    def _group_work(self, stage: int, kind: Callable[[RankWork], Work], layers: Span) -> Seconds:
        """The slowest rank's; where some compute behind the others, theirs comes to that."""
        parts: dict[bool, list[Seconds]] = {False: [], True: []}
        for rank in self._groups[stage]:
            work = self._works[rank]
            parts[work.is_behind].append(kind(work).of(layers))
        return longest(parts[False]) + longest(parts[True])

    def _stage(self, stage: int, kind: Callable[[RankWork], Work], rows: int, part: float = 1.0) -> Seconds:
        """A stage's step: the slowest rank and the all-reduces. part: of the work that the step does."""
        group, layers, shape = self._groups[stage], self._layers[stage], self._shape
        work = self._group_work(stage, kind, layers) * part
        if len(group) == 1:
            return work
        count = shape.all_reduces[len(group)] * len(layers) / shape.num_layers
        return work + self._cluster.all_reduce(group, rows * shape.row_bytes) * count

    def _hops(self, rows: int) -> list[Seconds]:
        """Returns what comes before each stage: nothing, and then the activations of the one before."""
        hosts = [self._cluster.hosts[group[0]] for group in self._groups]
        num_bytes = rows * self._shape.row_bytes
        pairs = itertools.pairwise(hosts)
        return [NOTHING, *(self._cluster.hand_over(one, other, num_bytes) for one, other in pairs)]

    def _around(self) -> Seconds:
        """Returns what a step takes beside its stages: the coordinator, and the ways there and back.

        Of the ways to the hosts that begin and that have the logits: other stages hear of it meanwhile.
        """
        first, last = ([self._cluster.hosts[rank] for rank in self._groups[stage]] for stage in (0, -1))
        answers = self._cluster.answer(first) + self._cluster.answer(last)
        return answers + Seconds(dispatch=self._cluster.coordinator)

    def _sequence(self, kind: Callable[[RankWork], Work]) -> Seconds:
        """A token of one sequence: through one stage after the other."""
        stages = [self._stage(stage, kind, 1) for stage in range(len(self._groups))]
        return added([*stages, *self._hops(1), self._around()])

    def _together(self) -> Seconds:
        """A token of each of several sequences, dealt out over steps as is quickest."""
        num_sequences = self._shape.num_sequences
        sizes = set.intersection(*(set(work.together) for work in self._works.values()))
        possible = [size for size in sizes if -(-num_sequences // size) <= most_in_flight(len(self._groups))]
        return min(map(self._dealt_out, sorted(possible)), key=lambda seconds: seconds.total)

    def _dealt_out(self, rows: int) -> Seconds:
        """A token of each of several sequences, so many of them in a step.

        The slowest stage is busy all the time, unless a step takes longer to come round again.
        """
        parts = -(-self._shape.num_sequences // rows)

        def kind(work: RankWork) -> Work:
            return work.together[rows]

        stages = [self._stage(stage, kind, rows) for stage in range(len(self._groups))]
        hops, around = self._hops(rows), self._around()
        busiest = longest(
            [stage + Seconds(dispatch=hop.dispatch) for stage, hop in zip(stages, hops, strict=True)]
        )
        return longest([busiest * parts, added([*stages, *hops, around])])

    def _parts_of_chunk(self) -> int:
        """Returns into how many steps several stages cut a chunk, to be at work at the same time."""
        if len(self._groups) == 1:
            return 1
        batches = MicroBatches(len(self._groups))
        batches.least_prompt_rows = TILE_ROWS
        return max(1, self._shape.chunk_rows // batches.prompt_rows(self._shape.prompt_tokens))

    def _prefill(self) -> Rate | None:
        """A whole prompt: a stage begins with a step that has come, once it has done the one before."""
        shape = self._shape
        if any(work.first_chunk is None for work in self._works.values()):
            return None
        parts = self._parts_of_chunk()
        rows = -(-shape.chunk_rows // parts)
        hops, around = self._hops(rows), self._around()
        ends: list[Seconds] = [NOTHING] * len(self._groups)
        for index in range(shape.num_chunks * parts):

            def kind(work: RankWork, index: int = index // parts) -> Work:
                return work.chunk(index, shape.num_chunks)

            arrived = NOTHING
            for stage, hop in enumerate(hops):
                begin = longest([ends[stage], arrived + hop])
                # One stage alone hears of a chunk when the one before is done; others hear of it meanwhile.
                waits = around if len(hops) == 1 else NOTHING
                arrived = ends[stage] = begin + self._stage(stage, kind, rows, 1 / parts) + waits
        seconds = ends[-1] + (NOTHING if len(hops) == 1 else around)
        return Rate(shape.prompt_tokens / seconds.total, seconds)
