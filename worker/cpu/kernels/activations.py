"""Activation functions of vectors, by the numbers of worker/ops/activation_functions.py."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.functions import logistic
from tplaunch.worker.cpu.kernels.vectors import larger, plus, smaller, spread, times
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS

inlined = njit(**OPTIONS)
SILU, GELU, RELU, RELU2, SWIGLU_OAI = (
    ACTIVATION_NUMBERS[name] for name in ("silu", "gelu", "relu", "relu2", "swiglu_oai")
)


@inlined
def silu(x: Any) -> Any:
    """Returns x times its logistic function."""
    return times(x, logistic(x))


@inlined
def gelu(x: Any) -> Any:
    """Returns x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, the tangent as a logistic function."""
    cubed = times(times(times(spread(0.044715), x), x), x)
    return times(x, logistic(times(spread(1.5957691216), plus(x, cubed))))


@inlined
def relu(x: Any) -> Any:
    """Returns what is above zero; what is not a number stays so."""
    return larger(spread(0.0), x)


@inlined
def activated(number: int, x: Any) -> Any:
    """Returns one of the activation functions of x, or x itself for number 0."""
    if number == SILU:
        return silu(x)
    if number == GELU:
        return gelu(x)
    if number == RELU:
        return relu(x)
    if number == RELU2:
        above = relu(x)
        return times(above, above)
    return x


@inlined
def activated_gate(number: int, gate: Any, up: Any) -> Any:
    """Returns an activation function of a gate, times what it gates."""
    if number == SWIGLU_OAI:
        clamped = smaller(spread(7.0), gate)
        added = plus(larger(spread(-7.0), smaller(spread(7.0), up)), spread(1.0))
        return times(times(clamped, logistic(times(spread(1.702), clamped))), added)
    return times(activated(number, gate), up)
