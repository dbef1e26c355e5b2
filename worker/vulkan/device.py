"""Runs programs on a Vulkan device; see worker/device.py for what is asked of it.

Ties together memory, kernels, recording and submission, each in a file of its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import Backing
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.cuts import NO_SHORT_CUTS, ShortCuts, short_cuts
from tplaunch.worker.buffers.stack_parts import REACH
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.checking.table import small_ops
from tplaunch.worker.device import Copy, DeviceId, FillPlaces, Place, Rounding
from tplaunch.worker.measuring.measurements import Measurements, cache_folder
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.activations import check_activations
from tplaunch.worker.vulkan.budget import Budget
from tplaunch.worker.vulkan.checking.checker import Checker
from tplaunch.worker.vulkan.checking.prover import Prover
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.copying import copy_inside
from tplaunch.worker.vulkan.dispatch.attention import cuts_short
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import Selects
from tplaunch.worker.vulkan.measuring.bandwidth import copy_bandwidth
from tplaunch.worker.vulkan.measuring.preferring import preferred
from tplaunch.worker.vulkan.measuring.quicker import quicker_as_floats
from tplaunch.worker.vulkan.measuring.tuning import START_SECONDS, Tuner, open_measurements, submits_ahead
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.prepared import Prepared, prepared
from tplaunch.worker.vulkan.recorder import Recorder
from tplaunch.worker.vulkan.sums import DeviceSums
from tplaunch.worker.vulkan.timeline import Timeline
from tplaunch.worker.vulkan.timestamps import Timestamps, device_clock
from tplaunch.worker.vulkan.variants import TILE_ROWS, Right, Selection, needed_invocations
from tplaunch.worker.vulkan.waiting import EndWord

END_WORD_BYTES = 64
PROMPT_ROWS_ON_CPU = 64  # a card's are a tile's; see Device

Bytes = npt.NDArray[np.uint8]


class VulkanDevice:
    """A Device. With options.staging nothing of it counts as visible to the host that need not be."""

    def __init__(self, device: DeviceId, options: RankOptions, limits: Limits) -> None:
        assert device.index is not None, "a Vulkan device has an index"
        self._limits, self._staging, self._submit_ahead = limits, options.staging, options.submit_ahead
        self._timeout_seconds, self._closed = options.timeout_seconds, False
        self._context = Context(device.index, device.uuid, options.validate, frozenset(options.without))
        self.info = self._context.info
        self.name, self.kind = self.info.name, self.info.kind
        check_activations(self._context, limits.activations)
        self.max_buffer_bytes = min(self.info.max_allocation, REACH)
        self._memory = Memory(self._context, unmapped=options.staging)
        self._pipelines = Pipelines(self._context, cache_folder())
        self._right: Right = {}
        self.quicker_as_floats = frozenset[str]()
        self._selection: Selects = Selection(self.info.features)
        self._timeline = Timeline(self._context, options.submit_ahead is not False, self._timeout_seconds)
        self._clock = device_clock(self._context)
        self._has_timestamps = options.timestamps and self._clock.valid_bits > 0
        self._sums = self.mover = DeviceSums(self._context, self._memory, options.staging)
        self.has_own_memory = self.info.type in ("discrete", "virtual")
        self.tells_prompts_apart = self.info.max_invocations >= needed_invocations("tiled")
        # On a CPU's driver the host looks through all logits in less time than a kernel takes.
        self.groups_logits = not self.on_cpu
        self.prompt_rows = PROMPT_ROWS_ON_CPU if self.on_cpu else TILE_ROWS
        self._end_word: EndWord | None = None  # while it is waited for
        self._prepared: dict[int, Prepared] = {}  # by the program's id: hashing a program walks all of it
        self._current: Prepared | None = None
        self._num_rows, self._began = 0, 0.0  # of this step
        self._budget = Budget(self.info.type)
        self.most_operations = self._budget.of_an_op

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        self._memory.create(buffers)

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        self._memory.fill(buffer, places, write)

    def finish_loading(self) -> list[str]:
        self._memory.free_staging()
        self._pipelines.keep()  # most of them were compiled to be proved or timed
        note = self._memory.eviction_note()
        return [note] if note else []

    def view(self, buffer: str) -> Bytes:
        mapped = self._memory[buffer].mapped
        assert mapped is not None, f"the buffer {buffer!r} is the device's alone"
        return mapped

    @property
    def sharing(self) -> str:
        """See Device; known once partials are attached."""
        return self._sums.way

    def attach_partials(self, arena: Bytes, write_slot: int, num_partials: int) -> None:
        self._sums.attach(arena, write_slot, num_partials)

    def back_partials(self, backing: Backing) -> None:
        """See SharingDevice."""
        self._sums.back(backing)

    def share_otherwise(self) -> bool:
        """See SharingDevice."""
        assert not self._prepared, "a prepared program has the arena's address"
        return self._sums.share_otherwise()

    def put_partials(self, values: npt.NDArray[np.float32]) -> None:
        """See SharingDevice."""
        self._sums.put(values)

    def seen_partials(self, count: int) -> npt.NDArray[np.float32]:
        """See SharingDevice."""
        return self._sums.seen(count)

    @property
    def on_cpu(self) -> bool:
        """See WaitingDevice."""
        return self.info.type == "cpu"

    @property
    def card(self) -> str:
        """See WaitingDevice. Drivers make up UUIDs of their own, and may give one to all cards of a model."""
        return "" if self.on_cpu else self.info.pci_address or self.info.uuid

    def wait_by(self, way: str) -> None:
        """See WaitingDevice."""
        if way == "word" and self._end_word is None:
            self._end_word = EndWord(self._memory.allocate(END_WORD_BYTES, Placement.READBACK))
        self._timeline.wait_by(way, self._end_word if way == "word" else None)

    def attach_words(self, words: Bytes, rank: int, num_ranks: int) -> None:
        """See WaitingDevice."""
        self._sums.attach_words(words, rank, num_ranks)

    def tries_exchange(self, program: Program, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See WaitingDevice."""
        exchange = self._sums.exchange
        assert exchange is not None, "there are no words"
        for parity in (0, 1):
            exchange.put_own(parity, values[parity])
        self.submit(program, program.rows)
        self.finish(0)
        return exchange.taken()[:, :, : values.shape[1]]

    def short_cuts(self, lengths: Collection[tuple[int, int]], groups: int) -> ShortCuts:
        """See CuttingDevice."""
        can = cuts_short(lengths, self._limits.kv_type, self.info.team_lanes)
        return short_cuts(self.info.compute_units, groups) if can else NO_SHORT_CUTS

    def checker(self) -> Checker:
        """Checks kernels one by one, with this device's compiled ones."""
        return Checker(self._context, self._pipelines)

    def prove(self, programs: Sequence[Program], seconds: float | None = None) -> list[str]:
        """Leaves what is not known yet after so long to the next start, but for a right variant of each."""
        assert not self._prepared, "a prepared program has chosen already"
        prover = Prover(self.checker(), open_measurements(self.info))
        proof = prover.prove(small_ops(programs, self._limits.kv_type), seconds)
        self._right = {**self._right, **proof.right}
        self._selection = Selection(self.info.features, right=self._right)
        return proof.notes

    def tune(self, program: Program, seconds: float = START_SECONDS, anew: bool = False) -> Measurements:
        """Spends at most about so long on what was not measured before, or `anew` on everything.

        On cards these are seconds of runs that are timed.
        """
        assert not self._prepared, "a prepared program has chosen already"
        measurements = open_measurements(self.info)
        tuner = Tuner(self._context, self._pipelines, measurements, self._right, anew)
        tuner.tune(program, self._limits.kv_type, seconds)
        self._selection = Selection(self.info.features, measurements.get, self._right)
        if self._limits.activations == "q8":
            self.quicker_as_floats = quicker_as_floats(measurements.get, self.info.features, self._right)
        if self._submit_ahead is None and not submits_ahead(measurements):
            self._timeline.close()
            self._timeline = Timeline(self._context, False, self._timeout_seconds)
        return measurements

    def prefers_rounded(self, programs: Sequence[Program]) -> tuple[Rounding, Sequence[str]]:
        """See RoundingDevice."""
        if self._limits.activations != "q8" and self._context.matrices is None:
            return Rounding(), ()
        measurements = open_measurements(self.info)

        def win(part: Sequence[Program]) -> bool:
            tuner = Tuner(self._context, self._pipelines, measurements, self._right)
            limits = self._limits
            wins = tuner.rounding_wins(part, limits.kv_type, limits.context_length)
            return wins or limits.activations == "f16"

        found = preferred(programs, self.prove, win)
        self._selection = Selection(self.info.features, measurements.get, self._right)
        return found

    def prepare(self, program: Program) -> None:
        if id(program) in self._prepared:
            return
        timestamps = None
        if self._has_timestamps:
            timestamps = Timestamps(self._context, self._clock, len(program.segments), program.num_gathers)
        self._prepared[id(program)] = self._record(program, timestamps)

    def _record(self, program: Program, timestamps: Timestamps | None) -> Prepared:
        info = self.info
        context = DispatchContext(
            program,
            self._sums.place,
            self._sums.layout(program),
            self._limits,
            info.sizes.widest,
            info.max_invocations,
            self._selection,
            info.team_lanes,
        )
        recorder = Recorder(self._context, self._pipelines, self._memory["step"])
        return prepared(recorder, program, context, timestamps, self._timeline, self._budget.operations)

    def _record_anew(self, old: Prepared) -> Prepared:
        """Cuts a program into shorter submissions, once its last step has ended."""
        self._prepared[id(old.program)] = self._record(old.program, old.timestamps)
        self._context.free_commands(old.recorded.commands)
        return self._prepared[id(old.program)]

    def copy(self, copies: Sequence[Copy]) -> None:
        copy_inside(self._context, self._memory, copies)

    def submit(self, program: Program, num_rows: int) -> None:
        assert num_rows <= program.rows, f"{num_rows} rows in a program of {program.rows}"
        current = self._prepared[id(program)]
        if self._budget.has_fallen_below(current.budget):
            current = self._record_anew(current)
        self._current, self._num_rows = current, num_rows
        self._sums.begin_step(program)
        self._began = time.perf_counter()
        self._timeline.submit(current.submission)

    def finish(self, segment: int) -> None:
        assert self._current is not None, "no step was submitted"
        self._timeline.wait(segment)
        if self._sums.staged is not None:
            self._sums.copy_out(self._current.program.segments[segment], self._num_rows)
        if segment == self._current.last_segment:
            if self._num_rows == self._current.program.rows:
                self._budget.learn(self._current.operations, time.perf_counter() - self._began)
            self._context.instance.check_validation()

    def release(self, segment: int) -> None:
        assert self._current is not None, "no step was submitted"
        if self._sums.staged is not None:
            self._sums.copy_in(self._current.program.segments[segment - 1], self._num_rows)
        self._timeline.release(segment)

    def step_times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        timestamps = self._current.timestamps if self._current is not None else None
        return timestamps.read() if timestamps is not None else None

    def copy_bandwidth(self) -> float:
        return copy_bandwidth(self._context, self._staging)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._current is not None:
            self.view("step")[:] = 0  # no rows: what an aborted step has left to do is done at once
        if not self._timeline.drain():
            return  # destroying what is in use can hang or crash
        self._timeline.close()
        for one in self._prepared.values():
            if one.timestamps is not None:
                one.timestamps.close()
        self._pipelines.keep()
        self._pipelines.close()
        self._sums.close()
        self._memory.close()
        self._context.close()
        self._context.instance.check_validation()
