"""Functions of vectors, by arithmetic that every processor does alike: the C library's differ by version."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    larger,
    magnitude,
    minus,
    multiply_add,
    nearest,
    plus,
    smaller,
    spread,
    times,
    two_to_the,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
# The logarithm of two in two parts, of which the first has few bits, so that its products are exact.
LOG2_E, LOG_2_HIGH, LOG_2_LOW = 1.4426950408889634, 0.693359375, -2.12194440054690581e-4
# Beyond these the result would be less than float32's least normal number, or not finite.
LEAST, MOST = -87.3, 88.7


@inlined
def exponential(x: Any) -> Any:
    """Returns e to the power of x, within 2 units of the last place; what x is below LEAST counts as that.

    x = n log 2 + r, and e^r by its Taylor series, whose next term is below a unit for |r| <= log 2 / 2.
    """
    x = smaller(spread(MOST), larger(spread(LEAST), x))
    n = nearest(times(x, spread(LOG2_E)))
    r = multiply_add(n, spread(-LOG_2_LOW), multiply_add(n, spread(-LOG_2_HIGH), x))
    p = spread(1 / 5040)
    p = multiply_add(p, r, spread(1 / 720))
    p = multiply_add(p, r, spread(1 / 120))
    p = multiply_add(p, r, spread(1 / 24))
    p = multiply_add(p, r, spread(1 / 6))
    p = multiply_add(p, r, spread(1 / 2))
    p = multiply_add(p, r, spread(1.0))
    p = multiply_add(p, r, spread(1.0))
    first = nearest(times(n, spread(0.5)))  # two to the power of n itself may be no normal number
    return times(times(p, two_to_the(first)), two_to_the(minus(n, first)))


@inlined
def logistic(x: Any) -> Any:
    """Returns 1 / (1 + e^-x)."""
    return divided(spread(1.0), plus(spread(1.0), exponential(minus(spread(0.0), x))))


@inlined
def hyperbolic_tangent(x: Any) -> Any:
    """Returns tanh(x) = 1 - 2 / (e^2x + 1), within 1e-7 of the true one."""
    e = exponential(times(spread(2.0), x))
    return minus(spread(1.0), divided(spread(2.0), plus(e, spread(1.0))))


@inlined
def softplus(x: Any) -> Any:
    """Returns log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), within 3 units of the last place.

    log(1 + t) = 2 artanh(s) with s = t / (2 + t) <= 1 / 3, by its series.
    """
    t = exponential(minus(spread(0.0), magnitude(x)))
    s = divided(t, plus(t, spread(2.0)))
    q = times(s, s)
    p = spread(1 / 17)
    p = multiply_add(p, q, spread(1 / 15))
    p = multiply_add(p, q, spread(1 / 13))
    p = multiply_add(p, q, spread(1 / 11))
    p = multiply_add(p, q, spread(1 / 9))
    p = multiply_add(p, q, spread(1 / 7))
    p = multiply_add(p, q, spread(1 / 5))
    p = multiply_add(p, q, spread(1 / 3))
    p = multiply_add(p, q, spread(1.0))
    return plus(larger(spread(0.0), x), times(times(spread(2.0), s), p))
