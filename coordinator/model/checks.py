"""The limits of a model's numbers, and the error that says so: checks of the specs beside this file."""

from __future__ import annotations

MAX_COUNT = 2**31 - 1  # of anything that is counted: kernels count in 32 bits, signed
MAX_NUMBER = 1e12  # no number that a model multiplies by reaches it, so that products stay finite in float32


class ModelError(ValueError):
    """The model can't be run; the message says why in one sentence."""


def exact_quotient(total: int, part: int, what: str) -> int:
    """total / part where no remainder is allowed; `what` names the total in the error."""
    if total % part:
        raise ModelError(f"{what} ({total}) is not a multiple of {part}")
    return total // part


def check_counts(spec: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(spec, name) <= MAX_COUNT:
            raise ModelError(
                f"the model's {name} is {getattr(spec, name)}; it must be a number from 1 to {MAX_COUNT}"
            )


def check_number(name: str, value: float) -> None:
    if not 0 < value < MAX_NUMBER:  # also refuses NaN
        raise ModelError(f"the model's {name} is {value}; it must be positive and below {MAX_NUMBER:g}")
