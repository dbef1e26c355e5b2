"""The activation functions of feed-forward layers in NumPy; shaders/activations.slang has them by number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x))"""
    result: Floats = np.reciprocal(1 + np.exp(-x))
    return result


def _silu(x: Floats) -> Floats:
    return x * logistic(x)


def _gelu(x: Floats) -> Floats:
    """Computes gelu by a hyperbolic tangent (https://arxiv.org/abs/1606.08415) as a logistic function."""
    twice: Floats = np.float32(1.5957691216) * (x + np.float32(0.044715) * x * x * x)
    return x * logistic(twice)


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _relu2(x: Floats) -> Floats:
    return np.square(_relu(x))


ACTIVATION_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "silu": _silu,
    "gelu": _gelu,
    "relu": _relu,
    "relu2": _relu2,
}


def _swiglu_oai(gate: Floats, up: Floats) -> Floats:
    """gpt-oss's (https://huggingface.co/openai/gpt-oss-20b), which clamps both."""
    clamped = np.minimum(gate, np.float32(7))
    return clamped * logistic(np.float32(1.702) * clamped) * (np.clip(up, -7, 7) + 1)


# Of gate and up together; for experts only.
GATED_ACTIVATION_FUNCTIONS: dict[str, Callable[[Floats, Floats], Floats]] = {"swiglu_oai": _swiglu_oai}
ACTIVATION_NUMBERS: dict[str | None, int] = {
    None: 0,
    **{
        name: number
        for number, name in enumerate((*ACTIVATION_FUNCTIONS, *GATED_ACTIVATION_FUNCTIONS), start=1)
    },
}
