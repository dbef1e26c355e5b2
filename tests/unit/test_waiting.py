"""How ranks choose to wait for their devices, and exchanges that devices make among themselves, with
NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import LIMITS
from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective
from tplaunch.collectives.arena import words_bytes
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.device import DeviceError, WaitingDevice
from tplaunch.worker.measuring import waiting
from tplaunch.worker.measuring.measurements import Measurements
from tplaunch.worker.measuring.waiting import NAME, Chooser, Waiting, known_numbers, shares_cores
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import SumNorm
from tplaunch.worker.ops.exchange import EXCHANGE, EXCHANGE_BYTES, WORDS, Gather
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.vulkan.waiting import spin

LENGTH = 32
SUM = SumNorm("hidden", None, LENGTH, 1e-5, "hidden", "rows", "partials", 0)
HOST_PROGRAM = Program(1, 0, (Segment((), 0), Segment((SUM,), 1), Segment((SUM,), None)))


class ExchangingDevice(NumpyDevice):
    """A NumPy device that exchanges by words, as far as it is let; it notes the ways by which it is waited
    for."""

    on_cpu = False

    def __init__(self, refuses: str = "", spoils: bool = False, card: str = "") -> None:
        super().__init__(LIMITS)
        self.card = card
        self.refuses, self.spoils = refuses, spoils
        self.ways: list[str] = []
        self.number = 2
        self.create_buffers(
            {
                "step": Buffer(4096),
                "hidden": Buffer(LENGTH * 4, row_length=LENGTH),
                EXCHANGE: Buffer(EXCHANGE_BYTES),
            }
        )
        self._state.bytes[EXCHANGE].view(np.uint32)[1] = 10**6

    def wait_by(self, way: str) -> None:
        self.ways.append(way)

    def attach_words(self, words: npt.NDArray[np.uint8], rank: int, num_ranks: int) -> None:
        if self.refuses:
            raise DeviceError(self.refuses)
        self._state.bytes[WORDS] = words

    def attach_partials(self, arena: npt.NDArray[np.uint8], write_slot: int, num_partials: int) -> None:
        super().attach_partials(arena, write_slot, num_partials)
        self.shared, self.own = self._state.partials, self._state.partials.copy()

    def submit(self, program: Program, num_rows: int) -> None:
        self._state.partials = self.own if program.num_gathers else self.shared
        self._state.bytes[EXCHANGE].view(np.uint32)[0] = self.number
        self.number += program.num_gathers
        super().submit(program, num_rows)

    def tries_exchange(self, program: Program, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.own[:, self._state.write_slot, : values.shape[1]] = values
        self.submit(program, 1)
        self.finish(0)
        found = self.own[:, : self._state.num_partials, : values.shape[1]].copy()
        return found + 1 if self.spoils else found


def chosen(
    devices: Sequence[Any],
    wanted: str = "auto",
    may_exchange: bool = True,
    on_cpu: bool = False,
    kept: Measurements | None = None,
) -> list[Any]:
    """Returns the choice of each rank, or the error that it raises."""

    def choose(collective: Collective) -> Any:
        device = devices[collective.rank]
        device.attach_partials(collective.arena, collective.rank, len(devices))
        runner = SegmentRunner(device, collective)
        header = device.view("step").view(np.uint32)
        of_rank = kept if collective.rank == 0 else None
        chooser = Chooser(runner, lambda: HOST_PROGRAM, LENGTH, header, of_rank)
        try:
            return chooser.choose(wanted, "" if may_exchange else "it must not be", on_cpu)
        except DeviceError as error:
            return str(error)

    with connected("shared-memory", len(devices), slot_bytes=4096) as collectives:
        return on_ranks(collectives, choose)


@pytest.fixture
def kept(tmp_path: Path) -> Measurements:
    return Measurements(tmp_path, {"name": "ranks"}, "kernels")


def keep(kept: Measurements, *microseconds: float) -> None:
    kept.put(NAME.format(4 * LENGTH), dict(zip(waiting.WAYS, microseconds, strict=False)))


def test_ranks_choose_what_is_fastest(kept: Measurements) -> None:
    for microseconds, expected in [
        ((9.0, 8.0, 7.0, 3.0), Waiting("word", by_device=True)),
        ((9.0, 8.0, 9.0, 8.5), Waiting("poll", by_device=False)),
        ((9.0, 9.0, 9.0, 8.9), Waiting("block", by_device=False)),
    ]:
        keep(kept, *microseconds)
        devices = [ExchangingDevice(), ExchangingDevice()]
        assert chosen(devices, kept=kept) == [expected] * 2
        assert [device.ways[-1] for device in devices] == [expected.host_way] * 2


def test_ranks_on_one_card_do_not_try_what_takes_two(kept: Measurements) -> None:
    """A card computes for one process at a time, so each would wait for the other in vain, three times."""
    keep(kept, 9.0, 8.0, 7.0, 3.0)
    for cards, by_device in ((("a", "a"), False), (("a", "b"), True), (("", ""), True), (("a", ""), True)):
        devices = [ExchangingDevice(card=card) for card in cards]
        assert chosen(devices, kept=kept) == [Waiting("word", by_device)] * 2
        assert all((WORDS in device._state.bytes) is by_device for device in devices)
    told = chosen([ExchangingDevice(card=card) for card in "bab"], "device")
    assert all("--waiting device: ranks are on one card, which computes for one of" in one for one in told)


def test_what_was_not_measured_is_measured_and_kept(kept: Measurements) -> None:
    devices = [ExchangingDevice(), ExchangingDevice()]
    first, other = chosen(devices, kept=kept)
    assert first == other and isinstance(first, Waiting)
    numbers = kept.get(NAME.format(4 * LENGTH))
    assert set(numbers) == set(waiting.WAYS) and None not in numbers.values()
    assert set(devices[0].ways) == set(waiting.HOST_WAYS)


def test_the_exchange_of_devices_is_measured_alone() -> None:
    """As `tplaunch check` does: then no program has an all-reduce by which to count."""

    def measured(collective: Collective) -> Any:
        device = ExchangingDevice()
        device.attach_partials(collective.arena, collective.rank, 2)
        header = device.view("step").view(np.uint32)
        chooser = Chooser(SegmentRunner(device, collective), lambda: HOST_PROGRAM, LENGTH, header, None)
        return chooser.fault(device, "", False) or chooser.measure(device, ("device",))["device"]

    with connected("shared-memory", 2, slot_bytes=4096) as collectives:
        one, other = on_ranks(collectives, measured)
    assert one == other > 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"refuses": "no import"}, "no import"),
        ({"spoils": True}, "what a device writes does not reach the others in time"),
    ],
)
def test_devices_do_not_exchange_where_one_of_them_can_not(
    kept: Measurements, change: dict[str, Any], fault: str
) -> None:
    keep(kept, 9.0, 8.0, 7.0, 1.0)
    for ranks in ([change, {}], [{}, change]):
        devices = [ExchangingDevice(**of_rank) for of_rank in ranks]
        assert chosen(devices, kept=kept) == [Waiting("word")] * 2
        forced = chosen([ExchangingDevice(**of_rank) for of_rank in ranks], "device")
        assert f"--waiting device: {fault}; leave it out, or use --waiting word" in forced
        assert all(isinstance(error, str) for error in forced)


def test_devices_do_not_exchange_where_ranks_share_cores(kept: Measurements) -> None:
    keep(kept, 9.0, 8.0, 7.0, 1.0)
    devices = [ExchangingDevice(), ExchangingDevice()]
    assert chosen(devices, on_cpu=True, kept=kept) == [Waiting("word")] * 2
    assert "ranks share cores" in chosen([ExchangingDevice(), ExchangingDevice()], "device", on_cpu=True)[0]


def test_devices_do_not_exchange_where_a_step_can_not_be_repeated(kept: Measurements) -> None:
    keep(kept, 9.0, 8.0, 7.0, 1.0)
    devices = [ExchangingDevice(), ExchangingDevice()]
    assert chosen(devices, may_exchange=False, kept=kept) == [Waiting("word")] * 2


def test_a_way_that_is_given_is_not_measured() -> None:
    for wanted in waiting.HOST_WAYS:
        devices = [ExchangingDevice(), ExchangingDevice()]
        assert chosen(devices, wanted) == [Waiting(wanted)] * 2
        assert devices[0].ways == [wanted]
    assert chosen([ExchangingDevice(), ExchangingDevice()], "device") == [Waiting("block", True)] * 2


def test_ranks_without_a_choice_have_none() -> None:
    numpy_device = NumpyDevice(LIMITS)
    numpy_device.create_buffers({"step": Buffer(4096), "hidden": Buffer(LENGTH * 4, row_length=LENGTH)})
    assert isinstance(ExchangingDevice(), WaitingDevice) and not isinstance(numpy_device, WaitingDevice)
    assert chosen([ExchangingDevice(), numpy_device]) == [Waiting()] * 2


@pytest.mark.parametrize(
    ("spans", "shares"),
    [
        ([(0, 1), (1, 2)], False),
        ([(0, 2), (1, 2)], True),
        ([(2, 4), (0, 1), (3, 5)], True),
        ([(0, 0), (0, 0), (0, 1)], False),  # GPUs need no core
    ],
)
def test_cores_are_shared_where_spans_overlap(spans: list[tuple[int, int]], shares: bool) -> None:
    assert shares_cores(np.array(spans, np.float32)) is shares


def test_numpy_exchanges_by_words_in_step(tmp_path: Path) -> None:
    """Two ranks, a thread each, each of them at its own pace: the words alone keep them in step."""
    rounds = 20

    def run(collective: Collective) -> bool:
        device = ExchangingDevice()
        device.attach_partials(collective.arena.copy(), collective.rank, 3)
        assert collective.words is not None
        device.attach_words(collective.words, collective.rank, 3)
        device.view("step").view(np.uint32)[0] = 1
        program = Program(1, 0, (Segment((Gather(0, 0, 0), Gather(1, 0, 1)), None),))
        for number in range(rounds):
            all_values = np.stack([known_numbers(number, rank, LENGTH) for rank in range(3)], axis=1)
            if not np.array_equal(device.tries_exchange(program, all_values[:, collective.rank]), all_values):
                return False
        return collective.confirm(1)

    with connected("shared-memory", 3, slot_bytes=4096, timeout_seconds=60) as collectives:
        assert on_ranks(collectives, run) == [True] * 3


def test_a_host_stays_awake_for_a_short_time_only() -> None:
    """It looks once more after each yield, until its time is up, or until a yield took long."""
    for slow_after, expected in [(None, 41), (7, 9)]:
        yields = [25e-6 if number == slow_after else 5e-6 for number in range(100)]
        times, looks = itertools.accumulate([0.0, *yields]), itertools.count()
        assert not spin(lambda: next(looks) < 0, clock=lambda: next(times))  # noqa: B023
        assert abs(next(looks) - expected) <= 1
    answers = iter([False, False, True])
    assert spin(lambda: next(answers), clock=lambda: 0.0)


@pytest.fixture
def pair() -> Iterator[Sequence[Collective]]:
    with connected("shared-memory", 2, slot_bytes=4096) as collectives:
        yield collectives


def test_all_ranks_learn_that_one_has_waited_in_vain(pair: Sequence[Collective]) -> None:
    for collective in pair:
        assert collective.words is not None and collective.words.size == words_bytes(2)
    stop = pair[1].words
    assert stop is not None
    stop[0] = 1
    assert on_ranks(pair, lambda collective: collective.confirm(1)) == [False, False]
    pair[0].resume()
    assert on_ranks(pair, lambda collective: collective.confirm(2)) == [True, True]


def test_a_peer_that_gives_up_in_its_next_step_changes_nothing(
    pair: Sequence[Collective], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its device may have done so before this rank goes on, with steps in flight."""
    shared, words = pair[1]._shared, pair[0].words  # type: ignore[attr-defined]
    assert words is not None
    meet = shared.meet

    def late(*arguments: Any) -> Any:
        found = meet(*arguments)
        words[0] = 1
        return found

    monkeypatch.setattr(shared, "meet", late)
    assert on_ranks(pair, lambda collective: collective.confirm(1)) == [True, True]
    monkeypatch.undo()
    assert on_ranks(pair, lambda collective: collective.confirm(2)) == [False, False]


def test_an_abort_ends_the_devices_waiting_too(pair: Sequence[Collective]) -> None:
    pair[0].abort("out of memory")
    words = pair[1].words
    assert words is not None and words[:4].all()
    error = on_ranks(pair, lambda collective: collective.confirm(1))[1]
    assert str(error) == "rank 0 aborted: out of memory"


def test_a_rank_that_does_not_come_is_named(pair: Sequence[Collective]) -> None:
    with connected("shared-memory", 2, slot_bytes=4096, timeout_seconds=0.05) as (first, _):
        assert "for rank 1" in str(on_ranks([first], lambda collective: collective.confirm(1))[0])


def test_ranks_that_disagree_on_who_exchanges_say_so(pair: Sequence[Collective]) -> None:
    def run(collective: Collective) -> Any:
        return collective.confirm(1) if collective.rank else collective.all_reduce(1, 0, 4)

    for error in on_ranks(pair, run):
        assert "disagree on whether their devices exchange among themselves" in str(error)
