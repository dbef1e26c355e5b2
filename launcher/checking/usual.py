"""Sets figures in relation: to what the device moves and computes at most, and to what cards usually do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tplaunch.worker.jobs.figures import Figure

COPY, READ, PEAKS = "copy.device", "read.memory", ("peak.f32", "peak.f16", "peak.q8")
# A part of what figures are shares of, under which something of a card is worth looking at. docs/gpus.md says
# why so much; drivers for CPUs are bound by other things.
LEAST_SHARES = {"matvec.": 0.4, "matmul.": 0.15}
LEAST = {"copy.from_host": 3e9, "copy.to_host": 3e9, "copy.read": 1e9}  # bytes per second
MOST = {"wait.block": 200e-6, "exchange.block": 400e-6}  # seconds
SEE = "docs/gpus.md says what to do"
WORDS = {COPY: "copy", READ: "reading", **dict.fromkeys(PEAKS, "peak")}


@dataclass(frozen=True)
class Share:
    """A figure as a part of another one of the same device."""

    part: float
    of: str  # the other one's key

    @property
    def text(self) -> str:
        return f"{self.part:.0%} of {WORDS[self.of]}".replace("%", " %")


def shares(figures: Sequence[Figure]) -> Mapping[str, Share]:
    """Returns the shares of those figures that have one, by key."""
    values = {figure.key: figure.value for figure in figures}
    found = {}
    for key, value in values.items():
        of = _whole_of(key)
        if of == COPY and READ in values:  # a processor's, which writes little of what it reads
            of = READ
        whole = values.get(of)
        if value is not None and whole:
            found[key] = Share(value / whole, of)
    return found


def _whole_of(key: str) -> str:
    """The figure that another one is a part of: a copy, or the peak of its activations."""
    kind, *rest = key.split(".")
    if kind == "matvec":
        return COPY
    return f"peak.{rest[1] if len(rest) > 1 else 'f32'}" if kind in ("matmul", "experts") else ""


def remarks(figures: Sequence[Figure], on_cpu: bool) -> list[str]:
    """Returns a sentence for each figure that has a note or is unusual for a card."""
    notes: dict[str, list[str]] = {}
    for figure in figures:
        if figure.note:
            notes.setdefault(figure.note, []).append(figure.what)
    found = [f"{', '.join(whats)}: {note}" for note, whats in notes.items()]
    if not on_cpu:
        found += [*_small_shares(figures), *_slow(figures)]
    return found


def _small_shares(figures: Sequence[Figure]) -> list[str]:
    found = []
    of_figures = shares(figures)
    for prefix, least in LEAST_SHARES.items():
        small = [
            figure.what
            for figure in figures
            if figure.key.startswith(prefix)
            and figure.key in of_figures
            and of_figures[figure.key].part < least
        ]
        if small:
            names, of = ", ".join(small), COPY if prefix == "matvec." else PEAKS[0]
            found.append(f"{names}: under {least:.0%} of the device's {WORDS[of]}, which is unusual; {SEE}")
    return found


def _slow(figures: Sequence[Figure]) -> list[str]:
    found = []
    for figure in figures:
        if figure.value is None:
            continue
        is_slow = figure.value < LEAST.get(figure.key, 0) or figure.value > MOST.get(figure.key, float("inf"))
        if is_slow:
            found.append(f"{figure.what}: unusually slow; {SEE}")
    return found
