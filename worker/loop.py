"""One rank's life: Hello, Load, then a StepDone for every Step until Shutdown."""

from __future__ import annotations

import logging
import time
from typing import TypeVar

import numpy as np

from collectives import Collective, create
from coordinator.messages import (
    PROTOCOL_VERSION,
    Attached,
    Connect,
    Hello,
    Lap,
    Load,
    Message,
    Progress,
    Ready,
    Shutdown,
    Step,
    StepDone,
)
from coordinator.plan import padded, rank_shards
from worker.bandwidth import copy_bandwidth
from worker.buffers import activation_buffers, cache_buffers, weight_buffers
from worker.control import ControlSocket
from worker.device import Device, DeviceOptions, TimedDevice
from worker.model_file import load_stack
from worker.open_device import open_device
from worker.open_weights import open_weights
from worker.program import Program, build_program
from worker.stacks import stack_shards
from worker.step_clock import RecordingClock, StepClock
from worker.step_writer import StepWriter, row_bucket
from worker.weight_source import WeightSource

M = TypeVar("M")
log = logging.getLogger("worker")


class ProtocolError(RuntimeError):
    """The coordinator sent something out of turn."""


def serve(control: ControlSocket, rank: int, process_id: int, options: DeviceOptions) -> None:
    """Runs a rank until it is told to shut down. What goes wrong is raised."""
    control.send(Hello(PROTOCOL_VERSION, rank, process_id))
    load = _expect(control.receive(), Load)
    worker = Worker(load, options)
    try:
        control.send(Attached(worker.weights.model_hash, worker.device.name, worker.collective.endpoint))
        worker.collective.connect(_expect(control.receive(), Connect).endpoints)
        worker.load_weights(control)
        worker.prepare()
        control.send(Ready(worker.device_bytes, worker.device.imports_partials, worker.copy_bandwidth))
        while not isinstance(message := control.receive(), Shutdown):
            control.send(worker.run(_expect(message, Step)))
    except BaseException as error:
        worker.collective.abort(str(error))
        raise
    finally:
        worker.close()


def _expect(message: Message, kind: type[M]) -> M:
    if not isinstance(message, kind):
        raise ProtocolError(f"{type(message).__name__} came where {kind.__name__} was expected")
    return message


class Worker:
    """A rank's device, its shard, and its place among the ranks."""

    def __init__(self, load: Load, options: DeviceOptions) -> None:
        self._load = load
        self._tensors = {tensor.name: tensor for tensor in load.tensors}
        self._shards = rank_shards(load.spec, load.share, self._tensors)
        self.weights: WeightSource = open_weights(load)
        self.device: Device = open_device(options, load.limits, load.timeout_seconds)
        timed = self.device if isinstance(self.device, TimedDevice) else None
        self._timed = timed if options.timestamps else None
        slot_bytes = load.limits.max_rows * padded(load.spec.embedding_length) * 4
        self.collective: Collective = create(
            load.collective,
            rank=load.share.rank,
            num_ranks=load.num_ranks,
            slot_bytes=slot_bytes,
            timeout_seconds=load.timeout_seconds,
            token=load.token,
        )
        log.info("rank %d of %d on %s", load.share.rank, load.num_ranks, self.device.name)
        self._programs: dict[tuple[int, int], Program] = {}
        self._num_reduces = 0

    def load_weights(self, control: ControlSocket) -> None:
        """Allocates every buffer and fills the weights, telling the coordinator how far it is."""
        spec, share, limits = self._load.spec, self._load.share, self._load.limits
        self.copy_bandwidth = copy_bandwidth(self.device) if self._load.measure_copy else 0.0
        weights = weight_buffers(self._shards)
        buffers = {
            **weights,
            **cache_buffers(spec, share, limits),
            **activation_buffers(spec, share, self._shards, limits),
        }
        self.device.create_buffers(buffers)
        self.device_bytes = sum(buffer.nbytes for buffer in buffers.values())
        done, total = 0, sum(buffer.nbytes for buffer in weights.values())
        started = reported = time.monotonic()
        for stack in stack_shards(self._shards).values():
            for num_bytes in load_stack(self.device, self.weights, stack, self._tensors):
                done += num_bytes
                if time.monotonic() - reported > 0.1:
                    control.send(Progress(done, total))
                    reported = time.monotonic()
        control.send(Progress(total, total))
        log.info("%d bytes of weights loaded in %.2f s", total, time.monotonic() - started)

    def prepare(self) -> None:
        """Everything that the first step would otherwise wait for."""
        self.device.attach_partials(self.collective.arena, self.collective.write_slot)
        self._writer = StepWriter(self.device, self.weights, self._load)
        self._logits = self.device.view("logits").view(np.float32)
        self._program(1, 1)
        way = (
            "written straight to host memory" if self.device.imports_partials else "copied by way of the host"
        )
        log.info("ready: %d bytes on the device, partial sums %s", self.device_bytes, way)

    def run(self, step: Step) -> StepDone:
        """One step: write, submit, and at every segment's end an all-reduce."""
        clock = RecordingClock() if self._timed is not None else StepClock()
        self._writer.write(step)
        program = self._program(step.token_ids.size, step.logit_rows.size)
        clock.lap("host")
        self.device.submit(program, step.token_ids.size)
        clock.lap("submit")
        count = step.token_ids.size * padded(self._load.spec.embedding_length)
        for index, segment in enumerate(program.segments):
            self.device.finish(index)
            clock.lap("wait")
            if segment.parity is not None:
                self._num_reduces += 1
                self.collective.all_reduce(self._num_reduces, segment.parity, count)
                clock.lap("reduce")
                self.device.release(index + 1)
                clock.lap("submit")
        logits = self._logits[: step.logit_rows.size * len(self._load.share.vocabulary)].copy()
        clock.lap("host")
        laps = self._device_laps(clock)
        return StepDone(step.number, logits, clock.ledger(), laps if self._load.trace else ())

    def _device_laps(self, clock: StepClock) -> tuple[Lap, ...]:
        """Adds what the device noted, where it does, and gives all laps."""
        if self._timed is None or not isinstance(clock, RecordingClock):
            return ()
        times = self._timed.segment_times()
        if times is not None:
            clock.add_device(times)
        return tuple(clock.laps)

    def _program(self, num_rows: int, num_logit_rows: int) -> Program:
        """The program of the rows' bucket, built and prepared when it is first wanted."""
        limits = self._load.limits
        key = (row_bucket(num_rows, limits.max_rows), row_bucket(num_logit_rows, limits.max_logit_rows))
        if key not in self._programs:
            program = build_program(
                self._load.spec,
                self._load.share,
                self._shards,
                self._load.num_ranks,
                *key,
                limits.activations,
            )
            self.device.prepare(program)
            self._programs[key] = program
        return self._programs[key]

    def close(self) -> None:
        self.device.close()
        self.collective.close()
