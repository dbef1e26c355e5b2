"""Bytes per rank, from the tables that the workers allocate by, held against the devices' memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.options import COLLECTIVES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.coordinator.split.shards import Shard
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.memory_places import MemoryPlace
from tplaunch.worker.buffers.stack_parts import WHOLE
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.buffers.state import state_buffers
from tplaunch.worker.buffers.sums import own_sums_bytes, sums_bytes
from tplaunch.worker.buffers.table import Buffer, activation_buffers, cache_buffers, weight_buffers
from tplaunch.worker.programs.moving import MANY_ROWS


@dataclass(frozen=True)
class RankBytes:
    """The bytes that one rank allocates."""

    weights: int
    cache: int
    work: int  # what a step computes in
    partials: int  # sums of all ranks, in this machine's memory: the arena once, and copies of devices
    copies: int = 0  # NumPy's, in float32
    states: int = 0  # of recurrent layers
    moved: int = (
        0  # partial sums in the device's own memory, before they move to shared memory and from there
    )

    @property
    def total(self) -> int:
        return self.own + self.partials

    @property
    def own(self) -> int:
        """Bytes in the memory of the rank's device."""
        return self.weights + self.cache + self.work + self.copies + self.states + self.moved


class RankNeeds:
    """A rank's bytes as a function of the limits: exactly the buffers that a worker creates."""

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, TensorInfo],
        share: RankShare,
        num_ranks: int,
        *,
        in_numpy: bool = False,
        collective: str = COLLECTIVES[0],
        copies_sums: bool = False,
        always_moves: bool = False,
        is_card: bool = False,
        hosts: Sequence[int] | None = None,
        max_allocation: int = 0,
    ) -> None:
        """num_ranks: of its stage. copies_sums: whether its device keeps a copy of all partial sums.
        always_moves: whether partial sums of steps of any size move from memory of its own; those of many
        rows do where it `is_card`.

        hosts: of the ranks of its stage; None for one host. max_allocation: bytes that its device allocates
        at once, by which matrices are cut; 0 where that is not known.
        """
        self._hosts = [HEAD] * num_ranks if hosts is None else hosts
        self._collective, self._copies_sums = collective, copies_sums
        self._always_moves, self._moves_many = always_moves and num_ranks > 1, is_card and num_ranks > 1
        self._spec, self._share, self._in_numpy = spec, share, in_numpy
        self._shards = rank_shards(spec, share, tensors)
        weights = weight_buffers(self._shards, max_allocation or WHOLE)
        self._weights = _total(weights)
        self._largest_weights = max(buffer.nbytes for buffer in weights.values())
        self._widening = widening(self._shards) if in_numpy else 0

    @property
    def keeps_states(self) -> bool:
        """Tells whether the model has recurrent layers."""
        return self._spec.is_recurrent

    @property
    def sees_all(self) -> bool:
        """Tells whether any layer with attention has no window."""
        return any(attention.window is None for attention in self._spec.attentions)

    @property
    def longest_window(self) -> int:
        """Keys that a row sees at most in layers with a window; 0 where none has."""
        return self._spec.longest_window

    def bytes(self, limits: Limits) -> RankBytes:
        cache = _total(cache_buffers(self._spec, self._share, limits))
        states = _total(state_buffers(self._spec, self._share, limits))
        copies = 0
        if self._in_numpy:
            copies = self._widening + widened_cache(self._spec, self._share, limits)
        partials = sums_bytes(
            self._spec, limits, self._collective, self._share.index, self._hosts, self._copies_sums
        )
        return RankBytes(
            self._weights, cache, self.work(limits), partials, copies, states, self._moved(limits)
        )

    def work(self, limits: Limits) -> int:
        """Bytes that a step computes in."""
        return _total(activation_buffers(self._spec, self._share, self._shards, limits))

    def _moved(self, limits: Limits) -> int:
        if not self._always_moves and (limits.max_rows < MANY_ROWS or not self._moves_many):
            return 0
        return own_sums_bytes(self._spec, limits, self._collective, self._share.index, self._hosts)

    def largest_buffer(self, limits: Limits) -> int:
        """Bytes of it: a device may refuse to allocate so much at once."""
        kept = cache_buffers(self._spec, self._share, limits) | state_buffers(self._spec, self._share, limits)
        return max([self._largest_weights, *(buffer.nbytes for buffer in kept.values())])


def rank_needs(
    spec: ModelSpec,
    tensors: Mapping[str, TensorInfo],
    plan: Sequence[RankShare],
    choices: Sequence[DeviceChoice],
    *,
    collective: str = COLLECTIVES[0],
    staging: bool = False,
    moves: bool = False,
) -> list[RankNeeds]:
    """Returns the needs of each rank. staging: devices copy partial sums even if they can import them.

    moves: all ranks have memory of their own for partial sums, not only cards.
    """
    hosts: dict[int, list[int]] = {}  # of each stage's ranks
    for share, choice in zip(plan, choices, strict=True):
        hosts.setdefault(share.first_layer, []).append(choice.host)
    return [
        RankNeeds(
            spec,
            tensors,
            share,
            len(hosts[share.first_layer]),
            hosts=hosts[share.first_layer],
            in_numpy=choice.in_numpy,
            collective=collective,
            copies_sums=choice.index is not None and (staging or not choice.imports_memory),
            always_moves=moves,
            is_card=not (choice.on_cpu or choice.integrated),
            max_allocation=choice.max_allocation,
        )
        for share, choice in zip(plan, choices, strict=True)
    ]


def bytes_in(place: MemoryPlace, found: Sequence[RankBytes]) -> int:
    """Bytes that all ranks together take there; found: by rank. A host has the sums of all its ranks."""
    sums = sum(found[rank].partials for rank in place.ranks_of_host)
    return sums + sum(found[rank].own for rank in place.ranks)


def _total(buffers: Mapping[str, Buffer]) -> int:
    return sum(buffer.nbytes for buffer in buffers.values())


def exceeds_allocation(needs: RankNeeds, choice: DeviceChoice, limits: Limits) -> bool:
    """Tells whether a buffer is larger than what the device allocates at once."""
    return 0 < choice.max_allocation < needs.largest_buffer(limits)


def check_fit(
    needs: Sequence[RankNeeds],
    limits: Limits,
    places: Sequence[MemoryPlace],
    choices: Sequence[DeviceChoice],
) -> None:
    """Raises UsageError naming the place, what its ranks need, and what it has."""
    for rank, choice in zip(needs, choices, strict=True):
        if exceeds_allocation(rank, choice, limits):
            raise UsageError(
                f"the plan does not fit: {choice.title} allocates at most"
                f" {mebibytes(choice.max_allocation)} at once, but one buffer would have"
                f" {mebibytes(rank.largest_buffer(limits))}; name more devices, or lower --context (now"
                f" {limits.context_length})"
            )
    found = [rank.bytes(limits) for rank in needs]
    for place in places:
        num_bytes = bytes_in(place, found)
        if not place.has_room(num_bytes, keep_reserve=False):
            has = "may hold {} (--max-memory)" if place.is_capped else "has {}"
            others = "or name more devices"
            if limits.context_length > limits.block_length:
                others = f"name more devices, or lower --context (now {limits.context_length})"
            raise UsageError(
                f"the plan does not fit: {place.name} would hold {mebibytes(num_bytes)}, but"
                f" {has.format(mebibytes(place.capacity))}; give it less with --tensor-split (auto finds out"
                f" how much), {others}"
            )


def widening(shards: Mapping[str, Shard]) -> int:
    """Returns the bytes that NumPy needs more: it computes with float32 copies of the matrices."""
    stacks = stack_shards(shards).values()
    return sum(max(0, 4 * stack.rows * stack.padded_columns - stack.nbytes) for stack in stacks)


def widened_cache(spec: ModelSpec, share: RankShare, limits: Limits) -> int:
    """NumPy's copy of the KV cache in float32."""
    return _total(cache_buffers(spec, share, replace(limits, kv_type="f32")))


def mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
