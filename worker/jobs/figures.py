"""The messages by which a device's speeds are measured for `tplaunch check`, one part of them a process.

The jobs come over a process's standard input, as those of messages.py do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tplaunch.coordinator.options import RankOptions

WAITS, COPIES, PRODUCTS = PARTS = ("waits", "copies", "products")
BYTES, SECONDS, OPERATIONS, TOKENS = "bytes/s", "s", "operations/s", "tokens/s"  # units of figures
RATIO, ERROR, FLAG, NO_UNIT = "ratio", "relative error", "flag", ""


@dataclass(frozen=True)
class PartJob:
    """Launcher: measure one part of what a device is good for; a FigureBegun and a Figure for each number."""

    part: str  # of PARTS
    seconds: float  # after which nothing more is begun
    options: RankOptions = field(default_factory=RankOptions)


@dataclass(frozen=True)
class PairJob:
    """Launcher: as one of two ranks find out how these exchange: a Meeting, of which both come, then a
    PairFigures for each of the stages."""

    token: bytes  # of this measurement: the collective drops what does not carry it
    options: RankOptions = field(default_factory=RankOptions)


@dataclass(frozen=True)
class FigureBegun:
    """Worker: this is measured now. Where a driver crashes, the last one is to blame."""

    key: str
    what: str


@dataclass(frozen=True)
class Figure:
    """Worker: a number, why there is none, or what is wrong."""

    key: str  # such as copy.device, the same in all versions
    what: str  # in words
    of: str  # its size, in words
    value: float | None = None
    unit: str = NO_UNIT
    problem: str = ""  # a sentence: something is wrong
    note: str = ""  # a sentence about what is not wrong, such as why there is no number


@dataclass(frozen=True)
class PairFigures:
    """Worker: what both ranks found out in one stage; the same numbers on both."""

    figures: tuple[Figure, ...]


FIGURE_JOBS = (PartJob, PairJob)
FIGURE_ANSWERS = (FigureBegun, Figure)
