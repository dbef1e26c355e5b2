"""Compares the bytes that decode must read for a token with the speed at which devices copy memory.

A rank reads its KV cache once per token, and all its weights once for the texts that are made together, of
experts those that a token is routed to.
Where a device is kept busy with that and nothing else, it reads nearly as fast as it copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.messages import Ready
from tplaunch.coordinator.serving.benchmark import Measurement
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.model import Model
from tplaunch.worker.buffers.stacks import Stack, stack_shards
from tplaunch.worker.buffers.state import state_buffers
from tplaunch.worker.buffers.table import cache_buffers


@dataclass(frozen=True)
class Roofline:
    """One rank's, in one test."""

    bytes_per_token: float
    bytes_per_second: float  # at the median speed
    copy_bytes_per_second: float  # read and written, while a copy is all that runs; 0 where not known

    @property
    def reached(self) -> float | None:
        """The part of the copy bandwidth."""
        if not self.copy_bytes_per_second:
            return None
        return self.bytes_per_second / self.copy_bytes_per_second


def rooflines(
    model: Model,
    limits: Limits,
    plan: Sequence[RankShare],
    choices: Sequence[DeviceChoice],
    ready: Sequence[Ready],
    measurement: Measurement,
) -> tuple[Roofline, ...]:
    """Returns the roofline of each rank; none for prefill, which computes more than it reads."""
    test = measurement.test
    if test.kind != "decode":
        return ()
    positions = test.context + (test.num_tokens + 1) / 2  # on average
    found = []
    for share, choice, message in zip(plan, choices, ready, strict=True):
        num_bytes = _weights(model, share, choice) / test.batch
        num_bytes += _cache(model, limits, share, choice, positions) + _states(model, limits, share)
        rate = num_bytes * measurement.median
        found.append(Roofline(num_bytes, rate, message.copy_bandwidth))
    return tuple(found)


def _weights(model: Model, share: RankShare, choice: DeviceChoice) -> int:
    """Every buffer of weights, or for NumPy the float32 copies that it computes with.

    Of experts as much as a row's have on average.
    """
    stacks = stack_shards(rank_shards(model.spec, share, model.tensors)).values()
    on_numpy = choice.in_numpy
    return round(sum(_stack_bytes(stack, on_numpy) * _part_read(model, stack) for stack in stacks))


def _stack_bytes(stack: Stack, on_numpy: bool) -> int:
    return 4 * stack.rows * stack.padded_columns if on_numpy else stack.nbytes


def _part_read(model: Model, stack: Stack) -> float:
    """Returns the part of a stack that is read for a row."""
    if "_exps." not in stack.name:
        return 1.0
    experts = model.spec.layers[int(stack.name.split(".")[1])].experts
    assert experts is not None, f"the layer of {stack.name} has no experts"
    return experts.used / experts.count


def _cache(
    model: Model, limits: Limits, share: RankShare, choice: DeviceChoice, num_positions: float
) -> float:
    """Bytes of keys and values that a row at this position sees; NumPy reads a copy of them in float32."""
    limits = replace(limits, kv_type="f32") if choice.in_numpy else limits
    cells = cache_buffers(
        model.spec, share, replace(limits, num_blocks=1, num_window_blocks=1, block_length=1)
    )
    windows = [layer.attention and layer.attention.window for layer in model.spec.layers]
    total = 0.0
    for name, buffer in cells.items():  # cache.INDEX.key
        window = windows[int(name.split(".")[1])]
        total += buffer.nbytes * (min(num_positions, window.length) if window else num_positions)
    return total


def _states(model: Model, limits: Limits, share: RankShare) -> int:
    """Bytes of one sequence's recurrent states, which are read and written."""
    held = state_buffers(model.spec, share, replace(limits, num_slots=min(1, limits.num_slots)))
    return 2 * sum(buffer.nbytes for buffer in held.values())


def roofline_text(found: Sequence[Roofline]) -> str:
    """Describes the roofline of the rank that reads most."""
    most = max(found, key=lambda roofline: roofline.bytes_per_token)
    read = f"{most.bytes_per_token / 1e6:,.1f} MB of weights and KV per token and rank"
    text = f"{read}, {_giga(most.bytes_per_second)} GB/s"
    if most.reached is None:
        return text
    return f"{text}, {most.reached:.1%} of the {_giga(most.copy_bytes_per_second)} GB/s of a copy"


def _giga(value: float) -> str:
    return f"{value / 1e9:.1f}"
