"""Counts what steps ask of each rank's device, from the programs that the device would have, as data."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare, padded
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.model import Model
from tplaunch.worker.buffers.stack_parts import REACH, WHOLE
from tplaunch.worker.ops.attention import MATRIX_KV_TYPES
from tplaunch.worker.ops.exchange import WIRE_BYTES
from tplaunch.worker.programs.counting import StepCounts, count
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.moving import MANY_ROWS, with_moves
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.vulkan.budget import Budget
from tplaunch.worker.vulkan.in_flight import USUAL, usual_bytes_in_flight
from tplaunch.worker.vulkan.measuring.tuning import measurements_of
from tplaunch.worker.vulkan.variants import TILE_ROWS, Selection

BY_HOSTS, BY_DEVICES = "hosts", "devices"
ONE_SHOT, TWO_PHASE = "one-shot", "two-phase"


@dataclass(frozen=True)
class Explained:
    """A rank's part of a step."""

    counts: StepCounts
    in_flight_bytes: int = 0  # of weights, at a time, in a token's products; 0 where that is not counted


class RankSteps:
    """Counts the steps of one rank, as many keys being before them as half of the context has."""

    def __init__(self, model: Model, arrangement: Arrangement, share: RankShare) -> None:
        self._model, self._share, self._limits = model, share, arrangement.limits
        self.num_ranks = sum(other.first_layer == share.first_layer for other in arrangement.plan)
        self._choice = arrangement.choices[share.rank]
        self._shards = rank_shards(model.spec, share, model.tensors)
        self._row_length = padded(model.spec.embedding_length)
        self.num_keys = max(1, self._limits.context_length // 2)
        self._budget = Budget(device_type(self._choice)).operations

    def token(self) -> tuple[Explained, Explained | None]:
        """Counts a token where hosts exchange, and where devices do, if the program allows that."""
        program = self._program(1, self._limits.generated_activations)
        in_flight = (
            0
            if self._choice.on_cpu
            else usual_bytes_in_flight(program, self._limits, card_selection(self._choice))
        )
        exchanges = not self._model.spec.is_recurrent and can_exchange(program, self._row_length)
        by_hosts = Explained(self._counts(program), in_flight)
        if not exchanges:
            return by_hosts, None
        return by_hosts, Explained(self._counts(with_exchanges(program)), in_flight)

    def prompt(self, two_phase: bool, inside: str) -> Explained:
        """Counts a step of as many rows of a prompt as there may be. inside: the wire of partial sums."""
        rows, activations = self._limits.max_rows, self._limits.may_be_activations
        program = self._program(rows, activations, two_phase and self.num_ranks > 2)
        if moves_sums(self._choice, rows) or inside != "f32":
            program = with_moves(program, inside)
        return Explained(self._counts(program, 0 if self._choice.on_cpu else TILE_ROWS))

    def _program(self, rows: int, activations: str, two_phase: bool = False) -> Program:
        choice, spec = self._choice, self._model.spec
        reach = min(choice.max_allocation or REACH, REACH)
        options = ProgramOptions(
            activations=activations,
            two_phase=two_phase,
            of_prompts=rows > 1 and choice.index is not None,
            groups_logits=not choice.on_cpu,
            max_buffer=WHOLE if choice.index is None else reach,
            attends_by_matrices=activations == "f16" and self._limits.kv_type in MATRIX_KV_TYPES,
        )
        logit_rows = int(self._share.ends(spec))
        return build_program(spec, self._share, self._shards, self.num_ranks, rows, logit_rows, options)

    def _counts(self, program: Program, tile_rows: int = 0) -> StepCounts:
        of_step = self.num_ranks, self._row_length, self.num_keys, self._limits.kv_type
        return count(program, *of_step, budget=self._budget, rank=self._share.index, tile_rows=tile_rows)


def card_selection(choice: DeviceChoice) -> Selection:
    """Returns the variants that a card of this host runs by what is kept of it; of others the usual ones."""
    if not choice.features:
        return USUAL
    kept = measurements_of(
        choice.name, choice.uuid, choice.driver, choice.driver_version, choice.kind, choice.on_cpu
    )
    return Selection(choice.features, kept.get)


def device_type(choice: DeviceChoice) -> str:
    """Returns the type of a device, as worker.vulkan.budget knows them; one that is not here is a card."""
    return "cpu" if choice.on_cpu else "integrated" if choice.integrated else "discrete"


def moves_sums(choice: DeviceChoice, rows: int) -> bool:
    """Tells if partial sums of so many rows move by themselves from and to a device's own memory."""
    return rows >= MANY_ROWS and not choice.is_in_host_memory


def explained(model: Model, arrangement: Arrangement) -> dict[str, list[Explained]]:
    """Counts a token at half of the context, by who exchanges partial sums; each a list by rank.

    "devices" is missing where a program does not allow that.
    """
    found: dict[str, list[Explained]] = {BY_HOSTS: [], BY_DEVICES: []}
    for share in arrangement.plan:
        by_hosts, by_devices = RankSteps(model, arrangement, share).token()
        found[BY_HOSTS].append(by_hosts)
        if by_devices is not None:
            found[BY_DEVICES].append(by_devices)
    return {who: counts for who, counts in found.items() if len(counts) == len(arrangement.plan)}


def explained_prompt(model: Model, arrangement: Arrangement, wire: str) -> dict[str, list[Explained]]:
    """Counts a step of as many rows of a prompt as there may be, by how ranks all-reduce; a list by rank.

    Two-phase only where more than two ranks all-reduce. wire: of partial sums.
    """
    inside = wire if wire in WIRE_BYTES else "f32"
    ranks = [RankSteps(model, arrangement, share) for share in arrangement.plan]
    has_phases = any(rank.num_ranks > 2 for rank in ranks)
    return {
        name: [rank.prompt(name == TWO_PHASE, inside) for rank in ranks]
        for name in (ONE_SHOT, TWO_PHASE)[: 1 + has_phases]
    }
