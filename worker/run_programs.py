"""The programs of a rank's steps, one for each bucket of rows, made when they are first wanted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from tplaunch.collectives import Collective
from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.split.plan import padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.device import Device, SharingDevice, TunableDevice
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.measuring.two_phase import NEVER
from tplaunch.worker.measuring.ways import way, wire_inside
from tplaunch.worker.ops.attention import MATRIX_KV_TYPES
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.moving import MANY_ROWS, with_moves
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.step.writer import row_bucket

MAX_VAIN_WAITS = 3  # of a run, after which devices no longer exchange among themselves

log = logging.getLogger("worker")


class RunPrograms:
    """Builds programs, and prepares each once.

    shares_routing: see ProgramOptions. large_bytes: from where on all-reduces are not one-shot. by_device:
    whether devices exchange among themselves where a program allows it. attends_by_matrices: see there.
    """

    def __init__(
        self,
        load: Load,
        shards: Mapping[str, Shard],
        device: Device,
        collective: Collective,
        shares_routing: bool,
    ) -> None:
        self._load, self._shards, self._device, self._collective = load, shards, device, collective
        self._shares_routing = shares_routing
        self._wire = wire_inside(load, collective)
        self._row_length = padded(load.spec.embedding_length)
        self.large_bytes = NEVER
        self.by_device = False
        self._vain_waits = 0
        self.tells_prompts_apart = device.tells_prompts_apart
        self.attends_by_matrices = False
        self._activations, self._prompts_as_floats = load.limits.generated_activations, False
        # Where no attention finishes rows of one part, programs do not differ by that.
        self._finishes = any(not attention.gated for attention in load.spec.attentions)
        self._made: dict[tuple[int, int, bool, bool, bool], Program] = {}

    def choose_for_prompts(self, rounded: bool) -> None:
        """Chooses if rows of prompts are rounded from now on, to q8 where others are, else to f16."""
        if self._activations == "q8":
            self._prompts_as_floats = not rounded
        elif rounded:
            self._activations = "f16"

    @property
    def activations_of_prompts(self) -> str:
        """Says what rows of prompts are multiplied as."""
        return "f32" if self.tells_prompts_apart and self._prompts_as_floats else self._activations

    def program(
        self,
        num_rows: int,
        num_logit_rows: int,
        of_prompts: bool,
        in_one_part: bool = False,
        by_hosts: bool = False,
    ) -> Program:
        """The program of the rows' bucket; `by_hosts` in which no devices exchange among themselves.

        in_one_part: see ProgramOptions.
        """
        limits = self._load.limits
        rows, logit_rows = (
            row_bucket(num_rows, limits.max_rows),
            row_bucket(num_logit_rows, limits.max_logit_rows),
        )
        by_device = self.by_device and not by_hosts
        of_prompts = of_prompts and self.tells_prompts_apart
        in_one_part = in_one_part and self._finishes
        key = (rows, logit_rows, of_prompts, in_one_part, by_device)
        if key not in self._made:
            large = rows * self._row_length * 4 >= self.large_bytes
            program = self._build(rows, logit_rows, of_prompts, large, in_one_part)
            if by_device and can_exchange(program, self._row_length):
                program = with_exchanges(program)
            else:
                program = self._moved(program)
            self._device.prepare(program)
            self._made[key] = program
        return self._made[key]

    def count_vain_wait(self) -> None:
        """Devices have waited for each other in vain; after some times they need no longer try."""
        self._vain_waits += 1
        log.info("devices have waited for each other in vain, %d times by now", self._vain_waits)
        if self._vain_waits == MAX_VAIN_WAITS:
            log.warning("devices have waited in vain so often that hosts exchange for them from now on")
            self.by_device = False

    def all_kinds(self) -> list[Program]:
        """Builds programs that together have every kernel that steps of any size may run."""
        limits = self._load.limits
        buckets = {1, min(2, limits.max_rows), limits.max_rows}  # between them nothing else begins
        return [
            self.build(
                rows,
                min(rows, limits.max_logit_rows),
                of_prompts,
                rows == limits.max_rows,
                in_one_part,
                as_floats,
            )
            for of_prompts in (False, True)[: 1 + self.tells_prompts_apart]
            for rows in sorted(buckets)
            for in_one_part in (False, True)
            for as_floats in ((), tuple(FORMATS))[: 1 + (limits.activations == "q8")]
        ]

    def build(
        self,
        rows: int,
        logit_rows: int,
        of_prompts: bool = False,
        large: bool = False,
        in_one_part: bool = False,
        as_floats: Collection[str] | None = None,
        activations: str | None = None,
    ) -> Program:
        """Builds a program as it runs with the hosts' help; `large` whose all-reduces are not one-shot.

        as_floats: see ProgramOptions; None for what was measured. activations: other than its own.
        """
        program = self._build(rows, logit_rows, of_prompts, large, in_one_part, as_floats, activations)
        return self._moved(program)

    def _as_floats(self, of_prompts: bool) -> Collection[str]:
        if of_prompts:
            return tuple(FORMATS) if self._prompts_as_floats else ()
        return self._device.quicker_as_floats if isinstance(self._device, TunableDevice) else ()

    def _moved(self, program: Program) -> Program:
        """Has partial sums written to the device's own memory first, where that is wanted or quicker."""
        device, wanted = self._device, self._load.options.sums
        moves = wanted == "moved"
        if wanted == "auto" and program.rows >= MANY_ROWS:
            moves = isinstance(device, SharingDevice) and device.has_own_memory
        if self._collective.num_ranks > 1 and (moves or self._wire != "f32"):
            return with_moves(program, self._wire, self._collective.touches_sums)
        return program

    def _build(
        self,
        rows: int,
        logit_rows: int,
        of_prompts: bool,
        large: bool,
        in_one_part: bool,
        as_floats: Collection[str] | None = None,
        activations: str | None = None,
    ) -> Program:
        if as_floats is None:
            as_floats = self._as_floats(of_prompts)
        load, attends = self._load, self.attends_by_matrices or activations == "f16"
        options = replace(
            way(self._collective, large),
            activations=activations or self._activations,
            attends_by_matrices=attends and load.limits.kv_type in MATRIX_KV_TYPES,
            shares_routing=self._shares_routing,
            of_prompts=of_prompts,
            groups_logits=self._device.groups_logits,
            in_one_part=in_one_part,
            max_buffer=self._device.max_buffer_bytes,
            as_floats=as_floats,
        )
        return build_program(load.spec, load.share, self._shards, len(load.group), rows, logit_rows, options)
