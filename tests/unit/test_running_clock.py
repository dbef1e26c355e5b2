"""The clock of all deadlines: only time counts in which the process ran."""

import threading

import pytest

from tests.unit.collectives_group import connected
from tplaunch.collectives import KINDS
from tplaunch.running_clock import LOOK_SECONDS, MOST_SECONDS, RunningClock


class Hands:
    """A monotonic clock that is turned by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_time_counts_while_somebody_looks() -> None:
    hands = Hands()
    clock = RunningClock(hands)
    for _ in range(100):
        hands.seconds += LOOK_SECONDS
        clock()
    assert abs(clock() - 100 * LOOK_SECONDS) < 1e-6


def test_of_a_stop_next_to_nothing_counts() -> None:
    hands = Hands()
    clock = RunningClock(hands)
    hands.seconds += 3600
    assert clock() == MOST_SECONDS
    hands.seconds += LOOK_SECONDS
    assert abs(clock() - MOST_SECONDS - LOOK_SECONDS) < 1e-6


@pytest.mark.parametrize("kind", list(KINDS))
def test_ranks_that_were_stopped_blame_nobody(kind: str) -> None:
    """The clocks jump by hours while a rank waits; the peer comes after that, within the timeout."""
    with connected(kind, 2, timeout_seconds=4 * MOST_SECONDS) as ranks:
        jumps = iter([0.0, 5000.0, 10000.0])
        ranks[0]._clock = RunningClock(lambda: next(jumps, 10000.0))
        peer = threading.Timer(0.3, ranks[1].all_reduce, (1, 1, 8))
        peer.start()
        ranks[0].all_reduce(1, 1, 8)
        peer.join()
