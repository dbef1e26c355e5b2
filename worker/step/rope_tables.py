"""The cosines and sines by which the pairs of a head's elements rotate at each position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.attention import Temperature
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.rope import RopeSpec, Yarn
from tplaunch.worker.weights.source import WeightSource

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class RopeTables:
    """The tables of all ropes of a model, side by side: cosines and sines alternately."""

    def __init__(
        self,
        ropes: Sequence[RopeSpec],
        context_length: int,
        weights: WeightSource,
        tensors: Mapping[str, TensorInfo],
    ) -> None:
        chosen = [factors_name(rope, context_length) for rope in ropes]
        factors = [_read_factors(weights, tensors[name]) if name else None for name in chosen]
        pairs = [rope_angles(rope, found) for rope, found in zip(ropes, factors, strict=True)]
        self._angles = np.concatenate([np.zeros(0), *pairs])
        self._magnitudes = np.concatenate(
            [np.zeros(0), *(np.full(rope.dimension // 2, rope.magnitude) for rope in ropes)]
        )

    def write(self, positions: npt.NDArray[np.int32], rows: Floats) -> None:
        """Fills a row for each position. Angles are float64: exact enough at any position."""
        angles = positions[:, None] * self._angles
        np.multiply(np.cos(angles), self._magnitudes, out=rows[:, 0::2], casting="same_kind")
        np.multiply(np.sin(angles), self._magnitudes, out=rows[:, 1::2], casting="same_kind")


def factors_name(rope: RopeSpec, context_length: int) -> str:
    """The tensor that frequencies are divided by; "" for none."""
    is_long = rope.long_frequency_factors and context_length > rope.original_context
    return rope.long_frequency_factors if is_long else rope.frequency_factors


def check_factors(
    ropes: Sequence[RopeSpec], weights: WeightSource, tensors: Mapping[str, TensorInfo]
) -> None:
    """Raises ModelError for factors that no frequency can be divided by, whatever the context."""
    for name in sorted(
        {name for rope in ropes for name in (rope.frequency_factors, rope.long_frequency_factors) if name}
    ):
        _read_factors(weights, tensors[name])


def _read_factors(weights: WeightSource, tensor: TensorInfo) -> Floats:
    """[dimension / 2]"""
    factors: Floats = weights.floats(tensor)[0]
    if not np.all((factors > 0) & (factors < np.inf)):
        raise ModelError(
            f"{tensor.name} holds {factors.min()} to {factors.max()}; positive numbers are needed"
        )
    return factors


def rope_angles(rope: RopeSpec, factors: Floats | None) -> Doubles:
    """[dimension / 2]"""
    pairs = np.arange(0, rope.dimension, 2, dtype=np.float64) / rope.dimension
    angles: Doubles = rope.base**-pairs
    angles[list(rope.still_pairs)] = 0
    if factors is not None:
        angles = angles / factors.astype(np.float64)
    if rope.yarn is None:
        return rope.scale * angles
    kept = _kept(rope, rope.yarn)
    return angles * (kept + rope.scale * (1 - kept))


def _kept(rope: RopeSpec, yarn: Yarn) -> Doubles:
    """How much of its angle each pair keeps, from 0 to 1 (https://arxiv.org/abs/2309.00071)."""

    def pair_that_rotates(times: float) -> float:
        """The pair that rotates so often in the original context."""
        per_radian = rope.original_context / (times * 2 * math.pi)
        return rope.dimension * math.log(per_radian) / (2 * math.log(rope.base))

    first = max(0.0, math.floor(pair_that_rotates(yarn.fast)))
    last = min(rope.dimension - 1.0, math.ceil(pair_that_rotates(yarn.slow)))
    pairs = np.arange(rope.dimension // 2).astype(np.float64)
    ramp: Doubles = 1.0 - np.clip((pairs - first) / max(0.001, last - first), 0, 1)
    return ramp


def temperatures(temperature: Temperature, positions: npt.NDArray[np.int32]) -> Doubles:
    """Returns the numbers that the queries at these positions are multiplied by."""
    periods = np.floor((positions + np.float64(temperature.offset)) / temperature.length)
    multipliers: Doubles = 1 + temperature.scale * np.log1p(periods)
    return multipliers
