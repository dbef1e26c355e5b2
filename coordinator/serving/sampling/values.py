"""Checks of single values that a request brings. Each refusal is a ValueError that names the field."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

MOST = 1e30  # beyond it a float32 logit overflows
MAX_INTEGER = 2**31 - 1  # token ids and counts travel as int32


def real(name: str, value: object, low: float = -math.inf, high: float = math.inf, note: str = "") -> float:
    """The value as a finite number from low to high; `note` ends the sentence of a refusal."""
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be {_between(low, high)}{note}, not {value}")
    return float(value)


def integer(name: str, value: object, low: int, high: int = MAX_INTEGER) -> int:
    """The value as a whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        possible = f"at least {low}" if high == MAX_INTEGER else f"between {low} and {high}"
        raise ValueError(f"{name} must be {possible}, not {value}")
    return int(value)


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """The value as token ids; None stands for no ids."""
    return tuple(integer(f"{name} of a token", token, 0) for token in _items(name, value, "token ids"))


def texts(name: str, value: object, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """The value, a text or several, as a tuple; None stands for no texts."""
    found = (value,) if isinstance(value, str) else tuple(_items(name, value, "texts"))
    for text in found:
        if not isinstance(text, str) or not (text or may_be_empty):
            raise ValueError(f"{name} must be texts that are not empty, not {text!r}")
    return found


def biases(name: str, value: object) -> dict[int, float] | None:
    """Token id -> number. An id may be a text of digits, as JSON has keys."""
    if value is None:
        return None
    if not hasattr(value, "items"):
        raise ValueError(f"{name} must map token ids to numbers, not {value!r:.80}")
    found = {}
    for token, bias in value.items():
        plain = int(token) if isinstance(token, str) and token.isdecimal() else token
        found[integer(f"{name} of a token", plain, 0)] = _bias(f"{name} of token {token}", bias)
    return found


def _bias(name: str, value: object) -> float:
    """A number that no float32 logit overflows by, or -inf, which rules a token out."""
    return -math.inf if value == -math.inf else real(name, value, -MOST, MOST, note=" or -inf")


def _items(name: str, value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be {what}, not {value!r:.80}")
    return list(value)


def _between(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "finite"
    if math.isinf(high):
        return f"finite and at least {low:g}"
    return f"between {low:g} and {high:g}"
