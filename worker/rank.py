"""A rank: its device, its shard of the weights, its place among the ranks, and how it runs a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tplaunch.collectives import Collective, create
from tplaunch.coordinator import candidates
from tplaunch.coordinator.messages import (
    NO_FLOATS,
    Advance,
    Answer,
    Connect,
    FetchRows,
    Lap,
    Load,
    Message,
    Progress,
    Rows,
    Step,
    StepDone,
)
from tplaunch.coordinator.next_step import advanced
from tplaunch.coordinator.split.exchanges import shares_routing
from tplaunch.coordinator.split.limits import AUTO
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker import kernels
from tplaunch.worker.buffers.stack_parts import in_parts
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.buffers.state import state_buffers
from tplaunch.worker.buffers.sums import slot_bytes
from tplaunch.worker.buffers.table import activation_buffers, cache_buffers, logit_buffers, weight_buffers
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import Device, DeviceId, TimedDevice, most_operations
from tplaunch.worker.measuring.agreeing import agrees
from tplaunch.worker.measuring.bandwidth import copy_bandwidth
from tplaunch.worker.measuring.ways import large_bytes, waiting
from tplaunch.worker.open_device import open_device
from tplaunch.worker.place import WorkerPlace
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.work import most_row_keys
from tplaunch.worker.run_programs import RunPrograms
from tplaunch.worker.step.clock import StepClock, account_for_device
from tplaunch.worker.step.copies import BlockCopier
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import attach_partials
from tplaunch.worker.step.stage import StageEnds, open_handover
from tplaunch.worker.step.writer import StepWriter
from tplaunch.worker.weights.loading import load_stacks
from tplaunch.worker.weights.open_weights import open_weights
from tplaunch.worker.weights.source import WeightSource

M = TypeVar("M")
log = logging.getLogger("worker")


class ProtocolError(RuntimeError):
    """The coordinator sent something out of turn."""


def expect(message: Message, kind: type[M]) -> M:
    if not isinstance(message, kind):
        raise ProtocolError(f"{type(message).__name__} came where {kind.__name__} was expected")
    return message


class Worker:
    """A rank's device, its shard, and its place among the ranks."""

    def __init__(
        self, load: Load, device_id: DeviceId, place: WorkerPlace, collective: Collective | None = None
    ) -> None:
        """collective: one to use in place of the run's."""
        self._load = load
        self._num_ranks = len(load.group)  # that all-reduce
        self._tensors = {tensor.name: tensor for tensor in load.tensors}
        self._shards = rank_shards(load.spec, load.share, self._tensors)
        self.weights: WeightSource = open_weights(load, place.files)
        self.device: Device = open_device(device_id, load.options, load.limits)
        timed = self.device if isinstance(self.device, TimedDevice) else None
        self._timed = timed if load.options.timestamps else None
        self._row_bytes = padded(load.spec.embedding_length) * 4
        self.collective: Collective = collective or create(
            load.options.collective,
            rank=load.group.index(load.share.rank),
            num_ranks=self._num_ranks,
            slot_bytes=slot_bytes(load.spec, load.limits),
            timeout_seconds=load.options.timeout_seconds,
            token=load.token,
            folder=Path(place.folder),
            address=place.address or None,
            hosts=[load.placement.hosts[rank] for rank in load.group],
            names=load.group,
            wire=load.options.wire,
        )
        self.handover = open_handover(load, Path(place.folder), place.address or None)
        log.info("rank %d of %d on %s", load.share.rank, load.placement.num_ranks, self.device.name)
        self._runner = SegmentRunner(self.device, self.collective)

    @property
    def tells_prompts_apart(self) -> bool:
        """Tells if rows of prompts are computed in other ways than generated ones."""
        return self._programs.tells_prompts_apart

    def connect(self, peers: Connect) -> None:
        """Meets the ranks of its own stage, and those that hand over to it, or that it hands over to."""
        group = self._load.group
        self._kinds = [peers.kinds[rank] for rank in group]
        self.collective.connect([peers.endpoints[rank] for rank in group])
        self.handover.connect(peers.handovers)

    def begin_step(self, number: int, digest: Callable[[], bytes]) -> None:
        """Begins a step, to which messages between ranks now belong. digest: of the message that tells it."""
        if self.collective.tells_steps or self.handover.tells_steps:
            told = digest()
            self.collective.begin_step(number, told)
            self.handover.begin_step(number, told)

    def load_weights(self, control: ControlSocket) -> None:
        """Allocates every buffer and fills the weights, telling the coordinator how far it is."""
        spec, share, limits = self._load.spec, self._load.share, self._load.limits
        self._programs = RunPrograms(
            self._load, self._shards, self.device, self.collective, shares_routing(share, self._kinds)
        )
        # These two need memory for a moment, of which there is more now than later.
        self.copy_bandwidth = copy_bandwidth(self.device) if self._load.options.measure_copy else 0.0
        self.notes = [*kernels.prove(self.device, self._programs)]
        preferred, notes = kernels.tune(self.device, self._programs, limits)
        self.notes += notes
        weights = weight_buffers(self._shards, self.device.max_buffer_bytes)
        buffers = {
            **weights,
            **cache_buffers(spec, share, limits),
            **state_buffers(spec, share, limits),
            **activation_buffers(spec, share, self._shards, limits),
            **(logit_buffers(share, limits) if self.device.groups_logits else {}),
        }
        self.device.create_buffers(buffers)
        attach_partials(self._runner)
        total = sum(buffer.nbytes for buffer in weights.values())
        self.notes += kernels.compile_kernels(
            self.device, self._programs, lambda doing: control.send(Progress(0, total, doing))
        )
        # Before ranks take their time to load.
        if limits.activations in (AUTO, "q8"):
            self._programs.choose_for_prompts(agrees(self._runner, self._kinds, preferred.products))
        if limits.activations in (AUTO, "f16"):
            self._programs.attends_by_matrices = agrees(self._runner, self._kinds, preferred.attention)
        of_run = self._load, self._shards, self._runner, self._kinds
        self._programs.by_device = waiting(*of_run).by_device
        self._programs.large_bytes = large_bytes(*of_run)
        self.device_bytes = sum(buffer.nbytes for buffer in buffers.values())
        done = 0
        started = reported = time.monotonic()
        stacks = in_parts(stack_shards(self._shards), self.device.max_buffer_bytes)
        for num_bytes in load_stacks(self.device, self.weights, stacks, self._tensors):
            done += num_bytes
            if time.monotonic() - reported > 0.1:
                control.send(Progress(done, total))
                reported = time.monotonic()
        self.notes += self.device.finish_loading()
        control.send(Progress(total, total))
        log.info("%d bytes of weights loaded in %.2f s", total, time.monotonic() - started)

    @property
    def activations_of_prompts(self) -> str:
        """The activations that rows of prompts are multiplied as, or by which they attend."""
        return "f16" if self._programs.attends_by_matrices else self._programs.activations_of_prompts

    def prepare(self) -> None:
        """Everything that the first step would otherwise wait for."""
        self._writer = StepWriter(self.device, self.weights, self._load)
        self._last: Step | None = None
        self._copier = BlockCopier(self.device, self._load)
        self._ends = StageEnds(self.device, self.handover, self._load)
        program = self._programs.program(1, 1, of_prompts=False, in_one_part=False)
        self.most_row_keys = most_row_keys(program, most_operations(self.device))
        log.info("ready: %d bytes on the device", self.device_bytes)

    def answer(self, message: Message) -> StepDone | Rows:
        """Runs a step, or sends more of the logits of one that has run."""
        if isinstance(message, Advance):
            return self.run(advanced(self._last, message), is_next=True)
        return self._fetch(message) if isinstance(message, FetchRows) else self.run(expect(message, Step))

    def run(self, step: Step, *, is_next: bool = False) -> StepDone:
        """One step: write, copy blocks, submit, and at every segment's end an all-reduce.

        is_next: it follows from the last one, as coordinator/next_step.py has it.

        Whole rows of logits are the device's own memory: the next step overwrites them.
        """
        clock = StepClock()
        self._last = step
        if is_next:
            self._writer.write_next(step)
        else:
            self._writer.write(step)
        self._copier.copy(step)
        program = self._programs.program(*self._sizes(step))
        clock.lap("host")
        sent_before = self._sent_bytes
        if self._ends.begin(step):
            clock.lap("handover")
        self._run(program, step, clock)
        if self._ends.finish(step):
            clock.lap("handover")
        whole, answer = NO_FLOATS, Answer()
        if self._ends.is_last:
            logits = self._ends.logits(step)
            groups = self._ends.groups(step)
            answer = candidates.answer(step.wanted, logits, self._load.share.vocabulary, groups)
            whole = candidates.whole_rows(step.wanted.whole_rows, logits)
        clock.lap("host")
        ledger = clock.ledger()
        laps = self._laps(clock, ledger) if self._timed is not None else []
        sent_bytes = self._sent_bytes - sent_before
        return StepDone(step.number, whole, ledger, tuple(laps), answer, sent_bytes)

    @property
    def _sent_bytes(self) -> int:
        """Bytes sent to other ranks by messages so far."""
        return self.collective.sent_bytes + self.handover.sent_bytes

    def _fetch(self, message: FetchRows) -> Rows:
        """The rows of a step's logits, which no step has overwritten yet."""
        logits = self._ends.kept(message.number)
        if logits is None:
            raise ProtocolError(f"rows of step {message.number} are asked for, which are not kept")
        candidates.check_rows("a fetched row", message.rows, len(logits))
        return Rows(message.number, candidates.whole_rows(message.rows, logits))

    def _laps(self, clock: StepClock, ledger: dict[str, float]) -> list[Lap]:
        """Returns the device's laps, where it noted any, and for a trace the host's; adds to the ledger."""
        times = self._timed.step_times() if self._timed is not None else None
        host = clock.laps()
        device = [] if times is None else account_for_device(ledger, host, *times)
        return [*host, *device] if self._load.options.trace else device

    def _sizes(self, step: Step) -> tuple[int, int, bool, bool]:
        """Rows of a written step, those with logits, if they are of prompts, and if each has one part."""
        rows = step.token_ids.size, self._ends.num_logit_rows(step)
        return *rows, step.of_prompts, self._writer.in_one_part

    def _run(self, program: Program, step: Step, clock: StepClock) -> None:
        """Where devices waited for each other in vain, they compute the step again with the hosts' help."""
        num_rows, row_length = step.token_ids.size, self._row_bytes // 4
        if self._runner.run(program, num_rows, row_length, clock.lap):
            return
        self._programs.count_vain_wait()
        clock.run_was_vain()
        program = self._programs.program(*self._sizes(step), by_hosts=True)
        self._runner.run(program, num_rows, row_length, clock.lap)
        if self.collective.rank == 0:
            self.collective.resume()  # by now every rank has seen it

    def close(self) -> None:
        self.device.close()
        self.collective.close()
        self.handover.close()
