"""An all-reduce that the devices make among themselves, without a word from any host.

Every rank's device stores words in memory that all of them see, [2, ranks, WORD_ELEMENTS] of eight bytes: a
float32 and above it the number of the exchange. A word is stored at once, so whoever finds the number has the
float, and nothing else needs to be ordered. An exchange begins when the one before has ended on its device,
and ends when all peers' words have come; so no rank is more than one exchange ahead of another, and two sets
of words, which take turns, are enough. Numbers are never used again.

Waiting is bounded. Where it ends without the words, the word `stop` is set for all ranks: nobody waits any
more, what the step computes from then on is rubbish, and the hosts, who look at that word behind each step,
let it be computed again with their help.
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.collectives.arena import CONTROL_BYTES, WORD_BYTES, WORD_ELEMENTS

WORDS, EXCHANGE = (
    "words",
    "exchange",
)  # buffers: what all devices see; and the next number, and how long to wait
EXCHANGE_BYTES = 16
FIRST_NUMBER, MAX_ROUNDS = 0, 1  # words of the buffer `exchange`


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


def words_offset(number: int, rank: int, num_ranks: int) -> int:
    """Returns where the words of a rank begin in the buffer `words`, in bytes, for an exchange by its
    number."""
    return CONTROL_BYTES + (number % 2 * num_ranks + rank) * WORD_ELEMENTS * WORD_BYTES
