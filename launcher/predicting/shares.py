"""The shares that ranks would have, of those groups that a prediction is for. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.plan import RankShare, make_plan
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.experts_apart import is_processor, weights_apart
from tplaunch.launcher.predicting.described import DescribedDevice
from tplaunch.launcher.predicting.wanted import HostDevice, Wanted


def group_plan(
    config: RunConfig, spec: ModelSpec, wanted: Wanted, group: Sequence[int]
) -> tuple[RankShare, ...]:
    """Equal shares, or as the user or descriptions weigh the ranks. Raises UsageError.

    Ranks without any weight are a stage of their own in some ways, which has layers all the same. group:
    ranks by their numbers in the cluster. Experts are apart where a group has a rank for either part.
    """
    weights, devices = _weights(config, wanted), wanted.devices
    own = [weights[rank] for rank in group]
    own = own if any(own) else [1.0] * len(own)
    if config.expert_split != EXPERTS_APART:
        return make_plan(spec, own, config.expert_split)
    if not has_experts_apart(config, wanted, group):
        return make_plan(spec, own)
    others, experts = weights_apart(own, [on_processor(devices[rank]) for rank in group])
    return make_plan(spec, others, expert_weights=experts)


def _weights(config: RunConfig, wanted: Wanted) -> Sequence[float]:
    """By the cluster's rank."""
    devices, split = wanted.devices, config.tensor_split
    if isinstance(split, tuple):
        if len(split) not in (len(devices), len(wanted.hosts[0])):
            raise UsageError(
                f"--tensor-split has {len(split)} weights, but one host has {len(wanted.hosts[0])}"
                f" ranks, and all have {len(devices)}"
            )
        return [split[rank % len(split)] for rank in range(len(devices))]
    if split is not None:
        rates = [device.bytes_per_second for device in devices if isinstance(device, DescribedDevice)]
        if len(rates) == len(devices):
            return rates
    return [1.0] * len(devices)


def has_experts_apart(config: RunConfig, wanted: Wanted, group: Sequence[int]) -> bool:
    """Tells whether the processors among a group's ranks hold experts, and its cards all else."""
    kinds = {on_processor(wanted.devices[rank]) for rank in group}
    return config.expert_split == EXPERTS_APART and len(kinds) > 1


def on_processor(device: HostDevice) -> bool:
    """Tells whether a device is a processor; one that is described counts as a card."""
    return isinstance(device, DeviceChoice) and is_processor(device)


def choice_of(device: HostDevice) -> DeviceChoice:
    """Returns the device as a rank's choice, also where it is only described."""
    if isinstance(device, DeviceChoice):
        return device
    return DeviceChoice(0, device.name, on_cpu=False, memory_bytes=device.memory_bytes, imports_memory=True)


def largest_shares(plan: Mapping[int, RankShare], count: int) -> list[RankShare]:
    """Returns as many of the largest shares: a step waits for the ranks that have them."""

    def size(share: RankShare) -> int:
        layers = sum(
            len(layer.heads) + len(layer.feed_forward) + len(layer.recurrent) + len(layer.expert_columns)
            for layer in share.layers
        )
        return layers + len(share.vocabulary)

    return sorted(plan.values(), key=size, reverse=True)[:count]
