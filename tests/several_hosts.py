"""An engine whose ranks are devices of this process, and by their collectives stand on several hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.models import LocalChannel, LocalEngine, Rank
from tests.patience import PATIENCE
from tests.unit.collectives_group import connected, on_ranks
from tplaunch import collectives
from tplaunch.collectives import Collective
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.step.segments import SegmentRunner


class HostsChannel(LocalChannel):
    """A channel whose ranks run each step at once, a thread a rank, and all-reduce behind each segment.

    They are of one stage.
    """

    def __init__(
        self,
        ranks: Sequence[Rank],
        model_hash: str,
        stack: contextlib.ExitStack,
        hosts: Sequence[int],
        wire: str,
        host_sums: bool,
    ) -> None:
        self._stack, self._hosts, self._wire = stack, hosts, wire
        for rank in ranks:
            rank.host_sums = host_sums
        super().__init__(ranks, model_hash)

    def attach(self, stage: Sequence[Rank], slot_bytes: int) -> None:
        def make(**arguments: Any) -> Collective:
            return collectives.create("shared-memory", hosts=self._hosts, wire=self._wire, **arguments)

        # A device may compile its kernels in the first step, for longer than most of that on a busy machine:
        # so its own bound, of 60 s, comes first.
        connecting = connected(make, len(stage), slot_bytes=slot_bytes, timeout_seconds=PATIENCE)
        self._collectives = self._stack.enter_context(connecting)
        self._runners = []
        for rank, collective in zip(stage, self._collectives, strict=True):
            rank.device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)
            self._runners.append(SegmentRunner(rank.device, collective))

    def _run_stage(self, step: Step, stage: list[Rank]) -> None:
        programs = [rank.prepared(step) for rank in stage]
        row_length = padded(stage[0].spec.embedding_length)

        def run(collective: Collective) -> None:
            collective.begin_step(step.number, bytes(8))
            runner, program = self._runners[collective.rank], programs[collective.rank]
            runner.run(program, step.token_ids.size, row_length, lambda kind: None)

        for error in on_ranks(self._collectives, run):
            if error is not None:
                raise error


@contextlib.contextmanager
def engine_on_hosts(
    path: Path, hosts: Sequence[int], wire: str = "f32", host_sums: bool = False, **options: Any
) -> Iterator[LocalEngine]:
    """An engine with a rank for each of the hosts, those of one neighbours."""
    with contextlib.ExitStack() as stack:

        def open_channel(ranks: Sequence[Rank], model_hash: str) -> LocalChannel:
            return HostsChannel(ranks, model_hash, stack, hosts, wire, host_sums)

        weights = options.pop("weights", [1.0] * len(hosts))
        yield LocalEngine(path, weights, open_channel=open_channel, **options)
