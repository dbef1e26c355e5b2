"""The links between hosts: what the user says of them, and what a message through one takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.predicting.seconds import Seconds

TIMES = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}  # of a second
RATES = {  # in bytes per second
    **{f"{prefix}bit": factor / 8 for prefix, factor in (("K", 1e3), ("M", 1e6), ("G", 1e9))},
    **{f"{prefix}B": factor for prefix, factor in (("K", 1e3), ("M", 1e6), ("G", 1e9))},
}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_TIME = re.compile(_NUMBER + "(ns|us|µs|ms|s)")
_RATE = re.compile(_NUMBER + "([KMG])(bit|bps|B)(?:/s)?", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """The way between two hosts, alike in both directions."""

    latency: float  # seconds that a message is on its way: about half of what ping says
    bytes_per_second: float

    def message(self, num_bytes: float) -> Seconds:
        """Returns what a message takes from one host to the other, beside the work of both."""
        return Seconds(latency=self.latency, bandwidth=num_bytes / self.bytes_per_second)

    @property
    def text(self) -> str:
        return f"{_digits(self.latency * 1e6)} us, {_digits(self.bytes_per_second * 8 / 1e9)} Gbit/s"


def _digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}"


def worst(links: Iterable[Link]) -> Link:
    """Returns a link with the longest latency and the lowest rate of some."""
    found = list(links)
    return Link(max(link.latency for link in found), min(link.bytes_per_second for link in found))


def parse_link(text: str) -> Link:
    """The value of --link: a latency and a rate, as 1000us,1Gbit. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    latency, rate = (parse_time(parts[0]), parse_rate(parts[1])) if len(parts) == 2 else (None, None)
    if latency is None or rate is None or not rate:
        raise UsageError(
            f"--link {text:.40}: the time that a message is on its way (half of what ping says) and a rate"
            " are needed, such as 1000us,1Gbit"
        )
    return Link(latency, rate)


def parse_time(text: str) -> float | None:
    """Seconds; None for what is no time."""
    found = _TIME.fullmatch(text)
    return None if found is None else float(found[1]) / TIMES[found[2].replace("µ", "u")]


def parse_rate(text: str) -> float | None:
    """Bytes per second; None for what is no rate. GB and Gbit stand with and without /s."""
    found = _RATE.fullmatch(text)
    if found is None:
        return None
    unit = "B" if found[3] == "B" else "bit"
    return float(found[1]) * RATES[found[2].upper() + unit]
