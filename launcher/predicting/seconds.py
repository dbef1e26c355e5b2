"""Seconds, by what they are spent on: whatever is predicted is a sum of them, and so has a limit."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class Seconds:
    """Time of a step, or of a part of one."""

    device: float = 0.0  # the device computes
    dispatch: float = 0.0  # the host has work done: steps, segments, all-reduces, messages
    latency: float = 0.0  # a message is on its way
    bandwidth: float = 0.0  # a message's bytes follow each other through a link

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(*(value * factor for value in astuple(self)))

    @property
    def total(self) -> float:
        return self.device + self.dispatch + self.latency + self.bandwidth

    @property
    def limit(self) -> str:
        """The field that has most of them."""
        return max((field.name for field in fields(self)), key=lambda name: getattr(self, name))


LIMITS = {  # in words
    "device": "device",
    "dispatch": "dispatch",
    "latency": "link latency",
    "bandwidth": "bandwidth",
}
NOTHING = Seconds()


def added(parts: list[Seconds]) -> Seconds:
    """Returns the sum."""
    total = NOTHING
    for part in parts:
        total += part
    return total


def longest(parts: list[Seconds]) -> Seconds:
    """Returns the one that takes longest; nothing of none."""
    return max(parts, key=lambda part: part.total, default=NOTHING)
