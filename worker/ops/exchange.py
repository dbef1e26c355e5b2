"""How partial sums travel: ops between a device's own memory and memory that all ranks see.

A Gather is an all-reduce that the devices make among themselves, without a word from any host. Every
rank's device stores words in memory that all of them see, [2, ranks, WORD_ELEMENTS] of eight bytes: a
float32 and above it the sum of its bits and the number of the exchange. Whoever finds that sum has the
float, in whatever order halves and words come (shaders/words.slang). An exchange begins when the one before
has ended on its device, and ends when all peers' words have come; so no rank is more than one exchange ahead
of another, and two sets of words, which take turns, are enough. Numbers are never used again.

Waiting is bounded. Where it ends without the words, the word `stop` is set for all ranks: nobody waits any
more, what the step computes from then on is rubbish, and the hosts, who look at that word behind each step,
let it be computed again with their help.

MovePartials brings many numbers to the arena and back, around an all-reduce of the hosts: kernels then write
their partial sums, a few columns at a time, to memory of the device's own, and only whole runs cross the bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tplaunch.collectives.arena import CONTROL_BYTES, WORD_BYTES, WORD_ELEMENTS

# Buffers: what all devices see; the next number, and how long to wait; and the collective's arena.
WORDS, EXCHANGE, ARENA = "words", "exchange", "arena"
EXCHANGE_BYTES = 16
FIRST_NUMBER, MAX_ROUNDS = 0, 1  # words of the buffer `exchange`
WIRE_BYTES = {"f32": 4, "bf16": 2}  # of a number in the arena

Slots = Literal["own", "peers", "all", "sum"]  # of the arena: `all` that are read, `sum` is the first
Span = Literal["all", "slice", "rest"]  # of the elements: `slice` is this rank's, see collectives/arena.py


@dataclass(frozen=True)
class Gather:
    """partials[parity, every slot] = the ranks' partial sums, of which this rank's are there before.

    row_length: float32 of a row that is exchanged; 0 for rows of the residual stream.
    """

    parity: int
    row_length: int
    index: int  # among the exchanges of the step

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("partials",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


@dataclass(frozen=True)
class MovePartials:
    """arena[parity, slots] = partials[parity, slots], a span of them, where it is `sent`; else the reverse.

    On a wire of bf16 the arena holds the upper halves of float32, rounded to nearest, ties to even; so do the
    partials then that were sent, all of the slot, for a rank goes on with what its peers read. A slice begins
    where its float32 would.
    row_length: float32 of a row; 0 for rows of the residual stream.
    """

    parity: int
    sent: bool
    slots: Slots
    span: Span
    row_length: int = 0
    wire: str = "f32"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("partials",) if self.sent else (ARENA,))

    @property
    def writes(self) -> frozenset[str]:
        if not self.sent:
            return frozenset(("partials",))
        return frozenset((ARENA,) if self.wire == "f32" else (ARENA, "partials"))


def words_offset(number: int, rank: int, num_ranks: int) -> int:
    """Returns where the words of a rank begin in the buffer `words`, in bytes, for an exchange by its
    number."""
    return CONTROL_BYTES + (number % 2 * num_ranks + rank) * WORD_ELEMENTS * WORD_BYTES
