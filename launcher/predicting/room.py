"""Finds out whether the hosts' devices hold what a way to run the model puts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.fit import mebibytes, rank_needs
from tplaunch.launcher.fitting.memory_places import memory_places
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.described import DescribedDevice
from tplaunch.launcher.predicting.model import Prediction


class Room:
    """The memory of every host's devices, as far as it is known."""

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        limits: Limits,
        hosts: Sequence[Sequence[DeviceChoice | DescribedDevice]],
    ) -> None:
        self._config, self._model, self._limits, self._hosts = config, model, limits, hosts
        self._by_rank = [(host, place) for host, devices in enumerate(hosts) for place in range(len(devices))]

    def lack(self, found: Prediction, shares: Mapping[int, RankShare]) -> str:
        """Says which host has no room for its ranks; an empty string where all have, or it is not known."""
        held = self._bytes(found, shares)
        for host, devices in enumerate(self._hosts):
            mine = {
                self._by_rank[rank][1]: num_bytes
                for rank, num_bytes in held.items()
                if self._by_rank[rank][0] == host
            }
            lack = self._lack_on(devices, mine)
            if lack:
                return f"host {host}: {lack}"
        return ""

    def _lack_on(self, devices: Sequence[DeviceChoice | DescribedDevice], held: Mapping[int, float]) -> str:
        """held: bytes by the device's place on its host."""
        for place, num_bytes in held.items():
            device = devices[place]
            if isinstance(device, DescribedDevice) and 0 < device.memory_bytes < num_bytes:
                return _text(device.name, num_bytes, device.memory_bytes)
        choices = [device for device in devices if isinstance(device, DeviceChoice)]
        if len(choices) < len(devices):  # devices that are here are not mixed with others on one host
            return ""
        caps = self._config.max_memory if choices and choices[0].host == HEAD else {}
        for room in memory_places(choices, caps):
            needed = sum(num_bytes for place, num_bytes in held.items() if place in room.ranks)
            if needed > room.capacity:
                return _text(room.name, needed, room.capacity)
        return ""

    def _bytes(self, found: Prediction, shares: Mapping[int, RankShare]) -> dict[int, float]:
        """Bytes of each rank of a way, by the cluster's rank."""
        held: dict[int, float] = {}
        for stage, layers in enumerate(found.layers):
            group = found.way.group(stage)
            needs = rank_needs(
                self._model.spec,
                self._model.tensors,
                [shares[rank] for rank in group],
                [self._choice(rank) for rank in group],
            )
            part = len(layers) / self._model.spec.num_layers
            for rank, need in zip(group, needs, strict=True):
                all_layers = need.bytes(self._limits)
                held[rank] = (all_layers.own - all_layers.work) * part + all_layers.work
        return held

    def _choice(self, rank: int) -> DeviceChoice:
        host, place = self._by_rank[rank]
        device = self._hosts[host][place]
        return device if isinstance(device, DeviceChoice) else DeviceChoice(0, device.name, on_cpu=False)


def _text(name: str, needed: float, capacity: int) -> str:
    return f"{name} would hold {mebibytes(round(needed))}, but has {mebibytes(capacity)}"
