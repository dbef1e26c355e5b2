"""A step's laps on the host, beneath them the device's times, and the trace of both."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.coordinator.messages import HOST_KINDS, Lap, Step, StepDone
from tplaunch.worker.step.clock import StepClock, account_for_device, aligned, overlaps

NO_INTS = np.zeros(0, np.int32)


def laps_of(laps: list[tuple[str, float]]) -> tuple[list[Lap], dict[str, float]]:
    """Laps of given lengths in seconds, the first at 100 s, and their ledger."""
    made, ledger, now = [], dict.fromkeys(HOST_KINDS, 0.0), 100.0
    for kind, seconds in laps:
        made.append(Lap(kind, now, now + seconds))
        ledger[kind] += seconds * 1e6
        now += seconds
    return made, ledger


def test_laps_follow_each_other_without_a_gap() -> None:
    clock = StepClock()
    for kind in (*HOST_KINDS, "wait"):
        clock.lap(kind)
    laps, ledger = clock.laps(), clock.ledger()
    assert [lap.kind for lap in laps] == [*HOST_KINDS, "wait"]
    for one, following in itertools.pairwise(laps):
        assert one.end == following.begin
    assert sum(ledger.values()) == pytest.approx((laps[-1].end - laps[0].begin) * 1e6)
    wait = sum(lap.end - lap.begin for lap in laps if lap.kind == "wait")
    assert ledger["wait"] == pytest.approx(wait * 1e6)
    assert set(StepClock().ledger()) == set(HOST_KINDS)


def test_the_device_goes_before_what_the_host_did_meanwhile() -> None:
    """The ends of two segments are seen 1 and 0.5 ms later: the clocks are taken to be 0.5 ms apart."""
    laps, ledger = laps_of(
        [("host", 0.002), ("submit", 0.004), ("wait", 0.006), ("reduce", 0.003), ("wait", 0.002)]
    )
    times = np.array([[7.004, 7.011], [7.0155, 7.0165]]) - 3.0  # by a clock of its own
    device = account_for_device(ledger, laps, times)
    assert ledger["device"] == pytest.approx(8000)
    assert ledger["submit"] == pytest.approx(2500)
    assert sum(ledger.values()) == pytest.approx(17000)
    assert [lap.kind for lap in device] == ["device", "device"]


@examples(100)
@given(
    lengths=st.lists(st.floats(0, 0.1), min_size=3, max_size=30),
    cuts=st.lists(st.floats(0, 0.2), min_size=4, max_size=4),
)
def test_kinds_add_up_whatever_the_device_says(lengths: list[float], cuts: list[float]) -> None:
    kinds = [HOST_KINDS[i % 4] for i in range(len(lengths))]
    laps, ledger = laps_of(list(zip(kinds, lengths, strict=True)))
    num_waits = kinds.count("wait")
    points = np.cumsum(np.resize(cuts, 2 * num_waits)).reshape(num_waits, 2)
    account_for_device(ledger, laps, points)
    assert sum(ledger.values()) == pytest.approx(sum(lengths) * 1e6, abs=1)
    assert min(ledger.values()) >= -1


def test_alignment_puts_no_end_behind_the_time_it_was_seen() -> None:
    times, seen = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([11.5, 14.1])
    np.testing.assert_allclose(aligned(times, seen), [[10.1, 11.1], [12.1, 14.1]])


def test_overlaps() -> None:
    laps = np.array([[0.0, 1.0], [1.0, 3.0], [3.0, 9.0]])
    spans = np.array([[-5.0, 0.5], [2.0, 4.0], [5.0, 6.0]])
    np.testing.assert_allclose(overlaps(laps, spans), [0.5, 1, 2])


def test_a_trace_is_in_the_trace_event_format() -> None:
    trace = Trace()
    step = Step(7, np.zeros(3, np.int32), NO_INTS, NO_INTS)
    laps = (Lap("host", 1.25, 1.5), Lap("device", 1.3, 1.4))
    trace.add(step, 1.0, 2.0, [StepDone(7, np.zeros(0, np.float32), {}, laps)] * 2)
    events = list(trace.events(5, "a run"))
    assert json.loads(json.dumps(events)) == events
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {
        0: "coordinator", 1: "rank 0", 2: "rank 0, device", 3: "rank 1", 4: "rank 1, device",
    }  # fmt: skip
    complete = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["tid"]) for event in complete] == [
        ("step of 3 rows", 0), ("host", 1), ("device", 2), ("host", 3), ("device", 4),
    ]  # fmt: skip
    assert complete[1]["ts"] == 1.25e6 and complete[1]["dur"] == 0.25e6
    assert all(event["pid"] == 5 and event.get("args") for event in events)
