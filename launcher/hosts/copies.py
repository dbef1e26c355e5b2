"""Messages about a joining host's copy of the model: what is fetched, and whether it is as it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.gguf.paths import Stamp
from tplaunch.coordinator.wire import Int32s
from tplaunch.launcher.hosts.descriptions import check_bytes, check_sentence, cut

ADVICE = "put it back there, or join without it to fetch it"
MAX_NUMBERS = 1 << 17  # of a FetchPart


@dataclass(frozen=True)
class FetchPart:
    """Head: fetch this of the model before your ranks start: blocks, as fetching.wanted has them as integers.

    A long wish comes in several messages.
    """

    blocks: Int32s
    is_last: bool

    def __post_init__(self) -> None:
        if len(self.blocks) > MAX_NUMBERS:
            raise ValueError(f"{len(self.blocks)} numbers at once")


@dataclass(frozen=True)
class Fetching:
    """Joiner: so many bytes of what I lack have come."""

    done: int
    total: int

    def __post_init__(self) -> None:
        check_bytes(self.done, self.total)


@dataclass(frozen=True)
class Fetched:
    """Joiner: all is there. Otherwise the sentence says why not."""

    fault: str = ""

    def __post_init__(self) -> None:
        check_sentence(self.fault)


@dataclass(frozen=True)
class AskCopy:
    """Head: are the model's files still as you found them?"""

    number: int  # of this question; the answer has it, too


@dataclass(frozen=True)
class CopySeen:
    """Joiner: they are. Otherwise the sentence says what has become of one."""

    number: int
    change: str = ""
    is_overwriting: bool = False  # the bytes that ranks have in use are others by now

    def __post_init__(self) -> None:
        check_sentence(self.change)


def seen(number: int, stamps: Sequence[Stamp]) -> CopySeen:
    """Answers a question. stamps: of the files that were found; none of a model that was fetched.

    Of those in the cache another process of this machine may fetch more at any time.
    """
    for stamp in stamps:
        if overwriting := stamp.overwriting():
            return CopySeen(number, cut(overwriting), is_overwriting=True)
    change = next(filter(None, (stamp.change() for stamp in stamps)), "")
    return CopySeen(number, cut(change))
