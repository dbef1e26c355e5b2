"""Finds the memory that ranks lie in, and its size: of each device, and of each host.

All ranks of a host that run on the CPU share its memory, whatever their driver reports of it; an integrated
GPU takes its own from there, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.split.placement import HEAD
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.machine import HostMemory, host_memory

HOST = "this machine's memory"
# These bytes are left free where the launcher itself decides how much to take: on a device for its driver and
# for the screen; in the machine's memory for other programs, and for the pages of the model's file.
DEVICE_RESERVE, DEVICE_RESERVE_PART = 128 << 20, 0.03
HOST_RESERVE_PART = 0.25


@dataclass(frozen=True)
class MemoryPlace:
    """The memory of one device, or this machine's, with the ranks that share it."""

    name: str
    ranks: tuple[int, ...]
    capacity: int  # bytes: more can't be
    usable: int  # bytes that it is wise to use: free now, less a reserve
    is_capped: bool = False  # --max-memory is the limit
    ranks_of_host: tuple[int, ...] = ()  # whose partial sums lie here, too: it is the memory of their host

    def has_room(self, num_bytes: int, *, keep_reserve: bool = True) -> bool:
        return num_bytes <= (self.usable if keep_reserve else self.capacity)


def memory_places(choices: Sequence[DeviceChoice], max_memory: Mapping[int | None, int]) -> list[MemoryPlace]:
    """Returns the places of all ranks; devices whose memory is not known are left out.

    Raises UsageError for caps of devices that no rank is on.
    """
    check_caps([choice for choice in choices if choice.host == HEAD], max_memory)
    places = []
    for host in dict.fromkeys(choice.host for choice in choices):
        ranks = [rank for rank, choice in enumerate(choices) if choice.host == host]
        caps = max_memory if host == HEAD else _own_caps([choices[rank] for rank in ranks])
        places += _places_of_host(choices, ranks, caps)
    return places


def _own_caps(choices: Sequence[DeviceChoice]) -> dict[int | None, int]:
    """Returns what another host's --max-memory says, as the choices of its devices have it."""
    caps: dict[int | None, int] = {None: choices[0].caps[1]}
    caps |= {choice.index: choice.caps[0] for choice in choices if choice.index is not None}
    return {place: cap for place, cap in caps.items() if cap}


def _places_of_host(
    choices: Sequence[DeviceChoice], own: Sequence[int], max_memory: Mapping[int | None, int]
) -> list[MemoryPlace]:
    """The places of one host's ranks. max_memory: its own --max-memory."""
    places = []
    for index in dict.fromkeys(choices[rank].index for rank in own if choices[rank].index is not None):
        ranks = tuple(rank for rank in own if choices[rank].index == index)
        choice = choices[ranks[0]]
        cap, size = max_memory.get(index), choice.memory_bytes
        if choice.on_cpu or not size:  # what such a driver reports is not what there is
            size = cap or 0
        if size:
            available = min(size, choice.available_bytes or size)
            reserve = 0 if size == cap else max(DEVICE_RESERVE, int(DEVICE_RESERVE_PART * size))
            places.append(_place(choice.title, ranks, size, available - reserve, cap))
    ranks = tuple(rank for rank in own if choices[rank].is_in_host_memory)
    if ranks:
        first = choices[ranks[0]]
        memory = host_memory(len(ranks)) if first.host == HEAD else HostMemory(*first.host_memory)
        usable = int(memory.available * (1 - HOST_RESERVE_PART))
        name = memory.limited_by or HOST
        if first.host_name:  # of several hosts, all of which are told
            name = f"{memory.limited_by or 'the memory'} of {first.host_name}"
        place = _place(name, ranks, memory.total, usable, max_memory.get(None))
        places.append(replace(place, ranks_of_host=tuple(own)))
    return places


def _place(name: str, ranks: tuple[int, ...], capacity: int, usable: int, cap: int | None) -> MemoryPlace:
    if cap is None or cap > capacity:
        return MemoryPlace(name, ranks, capacity, max(0, usable))
    return MemoryPlace(name, ranks, cap, max(0, min(usable, cap)), is_capped=True)


def check_caps(choices: Sequence[DeviceChoice], max_memory: Mapping[int | None, int]) -> None:
    """Raises UsageError for caps of devices that none of these ranks is on."""
    used = sorted({choice.index for choice in choices if choice.index is not None})
    for index in max_memory:
        if index is None and not any(choice.is_in_host_memory for choice in choices):
            raise UsageError(f"--max-memory cpu: no rank is in this machine's memory, only on {_named(used)}")
        if index is not None and index not in used:
            raise UsageError(f"--max-memory {index}: the ranks are on {_named(used)}")


def _named(indices: Sequence[int]) -> str:
    if not indices:
        return "the CPU; cpu stands for it"
    return f"device{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"
