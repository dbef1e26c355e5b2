"""Functions of vectors in the kernels of processors, against float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.team import function_at
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATION_NUMBERS

Floats = npt.NDArray[np.float32]
LAST_PLACE = 2.0**-23  # of a number's size, at most
POINTS = np.unique(np.concatenate((np.linspace(-87, 87, 5003), np.geomspace(1e-30, 1, 500)))).astype(
    np.float32
)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(cache_folder())


def call(kernels: Kernels, name: str, **arguments: int | float | npt.NDArray[np.generic]) -> None:
    """Runs a kernel on one thread; an array stands for its address, and what is not named is 0."""
    kernel = kernels[name]
    assert not arguments.keys() - {*kernel.parameters}
    words = np.zeros(len(kernel.parameters), np.int64)
    for index, parameter in enumerate(kernel.parameters):
        value = arguments.get(parameter, 0)
        if isinstance(value, float):
            words[index : index + 1].view(np.float32)[0] = value
        else:
            words[index] = value.ctypes.data if isinstance(value, np.ndarray) else value
    function_at(kernel)(int(words.ctypes.data), 0, 1)


def finished(kernels: Kernels, x: Floats, activation: str | None, softcap: float = 0.0) -> Floats:
    result, number = np.empty_like(x), ACTIVATION_NUMBERS[activation]
    one = np.ones(1, np.uint32)
    parts: dict[str, int | float] = {"scale": 1.0, "softcap": softcap, "activation": number}
    call(kernels, "rows.finish", products=x, output=result, columns=x.size, num_rows=one, **parts)
    return result


@pytest.mark.parametrize("activation", ACTIVATION_FUNCTIONS)
def test_activation_functions(kernels: Kernels, activation: str) -> None:
    with np.errstate(over="ignore"):  # gelu's exponent
        exact = ACTIVATION_FUNCTIONS[activation](POINTS.astype(np.float64))
    found = finished(kernels, POINTS, activation)
    # Of gelu's exponent, which is up to 1.6 x (1 + x^2 / 22), the last places are lost.
    lost = 8 + (4 * np.minimum(np.abs(POINTS), 7) ** 3 if activation == "gelu" else np.abs(POINTS) * 0)
    assert (np.abs(found - exact) <= lost * LAST_PLACE * np.abs(exact) + 1e-30).all()


def test_soft_caps(kernels: Kernels) -> None:
    found = finished(kernels, POINTS, None, softcap=30.0)
    exact = 30 * np.tanh(POINTS.astype(np.float64) / 30)
    assert np.abs(found - exact).max() < 30 * 2 * LAST_PLACE


def test_what_is_not_a_number_stays_so(kernels: Kernels) -> None:
    x = np.full(37, np.nan, np.float32)
    for activation in (None, *ACTIVATION_FUNCTIONS):
        assert np.isnan(finished(kernels, x, activation)).all(), activation
    assert np.isnan(finished(kernels, x, None, softcap=5.0)).all()


def test_softplus_and_exponentials(kernels: Kernels) -> None:
    """As a recurrent layer's time steps, and the decay that comes of them."""
    found, nothing = np.empty((2, POINTS.size), np.float32), np.zeros(POINTS.size, np.float32)
    parts = {
        "time_bias": nothing,
        "decay_rate": nothing - 1,
        "paces": found,
        "num_rows": np.ones(1, np.uint32),
    }
    call(kernels, "recurrent.pace", times_of=POINTS, heads=POINTS.size, **parts)
    decay, time = found.astype(np.float64)
    exact = np.logaddexp(0, POINTS.astype(np.float64))
    assert (np.abs(time - exact) <= 4 * LAST_PLACE * exact).all()
    exact = np.exp(-time)
    assert (np.abs(decay - exact) <= 2 * LAST_PLACE * exact).all()
