"""Tests the costs of all-reduces beyond the devices' own work, from the devices' laps."""

from __future__ import annotations

import numpy as np
import pytest

from tplaunch.coordinator.measuring.ledger import make_ledger
from tplaunch.coordinator.measuring.reduce_times import ReduceClock, ReduceTimes, reduce_seconds
from tplaunch.coordinator.messages import Lap, StepDone
from tplaunch.launcher.commands.ledger_report import ledger_json, ledger_table


def answer(*spans: tuple[float, float]) -> StepDone:
    laps = (Lap("host", 0, 1), *(Lap("device", begin, end) for begin, end in spans))
    return StepDone(1, np.zeros(0, np.float32), {}, laps)


FAST, SLOW = answer((1, 2), (3.5, 4), (6, 7)), answer((1, 3), (3.25, 5), (5.5, 9))


def test_the_last_to_end_and_the_last_to_begin_count() -> None:
    spans = np.array([[(lap.begin, lap.end) for lap in each.laps[1:]] for each in (FAST, SLOW)])
    np.testing.assert_allclose(reduce_seconds(spans), [0.5, 1.0])


def test_the_two_phases_of_an_all_reduce_are_one() -> None:
    clock = ReduceClock()
    clock.add([FAST, SLOW], 1, 3000)
    assert clock.take() == ReduceTimes(2, 1, 1.5e6, 3000, 3000)
    assert clock.take() is None


def test_all_since_they_were_taken_last() -> None:
    clock = ReduceClock()
    clock.add([FAST, SLOW], 2, 3000)
    clock.add([SLOW, FAST], 2, 12000)
    assert clock.take() == ReduceTimes(2, 4, 0.75e6, 3000, 12000)


@pytest.mark.parametrize("answers", [[FAST, answer()], [answer((1, 2))], [answer(), answer()]])
def test_a_device_without_times_tells_nothing(answers: list[StepDone]) -> None:
    clock = ReduceClock()
    clock.add(answers, len(answers) - 1, 3000)
    assert clock.take() is None


def test_the_report_says_so_in_a_line() -> None:
    times = ReduceTimes(2, 768, 31.4, 3072, 12288)
    ledger = make_ledger([{"device": 1.0}] * 2, 1, 1.0, times)
    last = ledger_table(ledger).splitlines()[-1]
    assert last == "all-reduce beyond the device: median 31 us of 768 (2 ranks, 3.07 to 12.3 KB)"
    assert ledger_json(ledger)["all_reduces"]["median_microseconds"] == 31.4
    assert ledger_json(make_ledger([], 1, 1.0))["all_reduces"] is None


def test_devices_own_exchanges_count_where_they_took_least() -> None:
    """The other rank waited for that one, as it may; and the line says what is in it."""

    def exchanges(*spans: tuple[float, float]) -> StepDone:
        laps = (Lap("device", 0, 9), *(Lap("exchange", begin, end) for begin, end in spans))
        return StepDone(1, np.zeros(0, np.float32), {}, laps)

    clock = ReduceClock()
    clock.add([exchanges((1, 3), (5, 6)), exchanges((2, 3), (4, 6))], 2, 3072)
    assert clock.take() == ReduceTimes(2, 2, 1e6, 3072, 3072, by_devices=True)
    clock.add([exchanges((1, 3)), answer((1, 2), (3, 4))], 1, 3072)  # one of them has no times of its own
    assert clock.take() is None
    table = ledger_table(make_ledger([{}] * 2, 1, 1.0, ReduceTimes(2, 48, 22.0, 3072, 3072, True)))
    assert "all-reduce among devices, with what adds up: median 22 us of 48 (2 ranks, 3.07 KB)" in " ".join(
        table.split()
    )
