"""Devices that are described, not measured: `--host-devices`. Their work follows from bytes and products."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.links import parse_rate, parse_time
from tplaunch.launcher.predicting.samples import layer_of
from tplaunch.launcher.predicting.seconds import Seconds
from tplaunch.launcher.predicting.work import RankWork, Work
from tplaunch.launcher.sizes import parse_size
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.buffers.table import cache_buffers

_OPERATIONS = re.compile(r"([0-9]+(?:\.[0-9]+)?)TFLOPS", re.IGNORECASE)
# What an idle GPU takes for a submission and its fence, which every step and all-reduce has (measured
# by the authors of ggml-org/llama.cpp 25051).
DISPATCH_SECONDS = 35e-6
EXAMPLE = "215GB/s:96GiB:20TFLOPS:35us"


@dataclass(frozen=True)
class DescribedDevice:
    """A device that is not here, by what it reaches with a model, not by what its data sheet promises."""

    bytes_per_second: float  # of weights and keys that it reads
    memory_bytes: int = 0  # 0 where it is not said
    operations_per_second: float = 0.0  # of a prefill; 0 where it is not said
    dispatch_seconds: float = DISPATCH_SECONDS  # of a submission

    @property
    def name(self) -> str:
        return f"{self.bytes_per_second / 1e9:g} GB/s"


def parse_host(text: str) -> tuple[DescribedDevice, ...]:
    """The value of --host-devices: devices separated by commas, 2x before two alike. Raises UsageError."""
    devices: list[DescribedDevice] = []
    for part in text.split(","):
        count, _, rest = part.strip().rpartition("x")
        if count and not re.fullmatch("[1-8]", count):
            raise UsageError(f"--host-devices {text:.60}: {count:.20} is no number of devices from 1 to 8")
        devices += [_device(text, rest)] * int(count or 1)
    return tuple(devices)


def _device(text: str, words: str) -> DescribedDevice:
    rate, *others = words.split(":")
    bytes_per_second = parse_rate(rate)
    if not bytes_per_second:
        raise UsageError(
            f"--host-devices {text:.60}: a device begins with the rate at which it reads weights, and may go"
            f" on with its memory, its speed in prefill and the time of a submission, such as {EXAMPLE}"
        )
    device = DescribedDevice(bytes_per_second)
    for word in others:
        operations, seconds = _OPERATIONS.fullmatch(word), parse_time(word)
        if operations is not None:
            device = replace(device, operations_per_second=float(operations[1]) * 1e12)
        elif seconds is not None:
            device = replace(device, dispatch_seconds=seconds)
        else:
            device = replace(device, memory_bytes=_memory(text, word))
    return device


def _memory(text: str, word: str) -> int:
    try:
        return parse_size(word)
    except ValueError as error:
        raise UsageError(f"--host-devices {text:.60}: {error}; a device is such as {EXAMPLE}") from None


def described_work(
    device: DescribedDevice,
    model: Model,
    share: RankShare,
    limits: Limits,
    far: int,
    sequences: Sequence[int],
    chunk_rows: int,
) -> RankWork:
    """The work of a rank on it. far: the position at which a context is at its end."""
    weights, head = _weight_bytes(model, share)
    keys = _key_bytes(model, share, limits)

    def step(rows: int, position: int, *, chunk: bool = False, with_logits: bool = True) -> Work:
        layers = []
        for index, (held, products, cell) in enumerate(zip(*weights, keys, strict=True)):
            window = _window(model, index)
            seen = min(position, window) if window else position
            num_bytes = held + cell * seen * (1 if chunk else rows)
            seconds = num_bytes / device.bytes_per_second
            if chunk:
                seconds = max(seconds, 2 * products * rows / device.operations_per_second)
            layers.append(Seconds(device=seconds))
        rest = Seconds(head / device.bytes_per_second if with_logits else 0.0, device.dispatch_seconds)
        return Work(tuple(layers), rest)

    knows = device.operations_per_second > 0
    return RankWork(
        step(1, 0),
        step(1, far),
        {count: step(count, 0) for count in sequences},
        step(chunk_rows, 0, chunk=True, with_logits=False) if knows else None,
        step(chunk_rows, chunk_rows, chunk=True) if knows else None,
    )


def _weight_bytes(model: Model, share: RankShare) -> tuple[tuple[list[float], list[float]], float]:
    """Bytes that a row reads and weights that it is multiplied by, of each layer; and bytes behind them.

    Of experts as many as a row is routed to.
    """
    spec = model.spec
    held, products, head = [0.0] * spec.num_layers, [0.0] * spec.num_layers, 0.0
    for name, stack in stack_shards(rank_shards(spec, share, model.tensors)).items():
        index = layer_of(name)
        if index is None:
            head += stack.nbytes
            continue
        experts = spec.layers[index].experts
        part = experts.used / experts.count if "_exps." in name and experts is not None else 1.0
        held[index] += stack.nbytes * part
        products[index] += stack.rows * stack.padded_columns * part
    return (held, products), head


def _key_bytes(model: Model, share: RankShare, limits: Limits) -> list[float]:
    """Bytes of keys and values of a position, by layer."""
    one = replace(limits, num_blocks=1, num_window_blocks=1, block_length=1)
    found = [0.0] * model.spec.num_layers
    for name, buffer in cache_buffers(model.spec, share, one).items():  # cache.INDEX.key
        found[int(name.split(".")[1])] += buffer.nbytes
    return found


def _window(model: Model, index: int) -> int:
    attention = model.spec.layers[index].attention
    return attention.window.length if attention is not None and attention.window is not None else 0
