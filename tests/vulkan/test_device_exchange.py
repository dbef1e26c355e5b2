"""Exchanges that devices make among themselves, and ways to wait for a device, on real drivers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import LIMITS, LocalChannel, LocalEngine, Rank
from tests.patience import PATIENCE
from tests.several_hosts import HostsChannel
from tests.unit.collectives_group import on_ranks
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import STEPS, on, plain_model
from tplaunch.collectives import Collective
from tplaunch.collectives.arena import words_bytes
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import padded
from tplaunch.running_clock import RunningClock
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.checking.case import page_aligned
from tplaunch.worker.device import Device, DeviceError
from tplaunch.worker.measuring.waiting import known_numbers
from tplaunch.worker.numpy.exchange import words_for
from tplaunch.worker.ops.exchange import Gather, words_offset
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan import exchange, host_writes, listing
from tplaunch.worker.vulkan.api import vk
from tplaunch.worker.vulkan.barriers import put_barrier
from tplaunch.worker.vulkan.device import VulkanDevice

__all__ = ["plain_model"]  # a fixture

LENGTH, NUM_RANKS = 416, 3
PROGRAM = Program(1, 0, (Segment((Gather(0, 0, 0), Gather(1, 0, 1)), None),))
PAIRS = [
    ("lavapipe", "lavapipe", "lavapipe"),
    ("mesa", "mesa", "mesa"),
    ("swiftshader", "swiftshader", "swiftshader"),
    ("lavapipe", "swiftshader", "mesa"),
]


@pytest.fixture
def words() -> npt.NDArray[np.uint8]:
    return page_aligned((words_bytes(NUM_RANKS),))


@pytest.fixture
def imports_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """SwiftShader imports, though it says that it can't."""
    monkeypatch.setattr(listing, "imports_host_memory", lambda handle: True)


def opened(
    open_device: Opener, driver: str, words: npt.NDArray[np.uint8], rank: int, **options: Any
) -> VulkanDevice:
    """A device that has the words, and looks at each of its peers' once."""
    device = open_device(driver, LIMITS, **options)
    device.create_buffers(
        {
            "step": Buffer(StepLayout(LIMITS).num_words * 4, Placement.UPLOAD),
            "hidden": Buffer(LENGTH * 4, row_length=LENGTH),
        }
    )
    device.attach_words(words, rank, NUM_RANKS)
    device.view("step").view(np.uint32)[0] = 1
    device.prepare(PROGRAM)
    return device


def at_number(device: VulkanDevice, number: int, max_rounds: int = 0) -> None:
    """The next exchange has this number."""
    exchange = device._sums.exchange
    assert exchange is not None
    exchange._next_number = number
    exchange._state[1] = max_rounds


@pytest.mark.parametrize("drivers", PAIRS, ids=str)
def test_numbers_come_through(
    open_device: Opener,
    imports_everywhere: None,
    words: npt.NDArray[np.uint8],
    drivers: tuple[str, ...],
) -> None:
    """One device after another, so that no time matters: each finds what those before have stored."""
    devices = [opened(open_device, driver, words, rank) for rank, driver in enumerate(drivers)]
    for number in (2, 4, 2**32 - 4):
        values = np.stack([known_numbers(number, rank, LENGTH) for rank in range(NUM_RANKS)])
        for last_round in (False, True):
            for rank, device in enumerate(devices):
                words[:4] = 0
                at_number(device, number)
                found = device.tries_exchange(PROGRAM, values[rank])
                has_all = last_round or rank == NUM_RANKS - 1
                assert np.array_equal(found, values.transpose(1, 0, 2)) or not has_all
                assert bool(words[:4].any()) != has_all


def test_what_is_tried_is_seen_by_kernels_and_by_the_host(
    open_device: Opener, words: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever caches a card has: numbers come before its kernels read any, and go behind what they wrote."""
    stages: list[tuple[int, int]] = []

    def note(commands: object, before: int, after: int, barrier: object) -> None:
        stages.append((before, after))
        put_barrier(commands, before, after, barrier)

    device = opened(open_device, "lavapipe", words, 0)
    for module in (exchange, host_writes):
        monkeypatch.setattr(module, "put_barrier", note)
    at_number(device, 2)
    device.tries_exchange(PROGRAM, known_numbers(0, 0, LENGTH))
    transfer, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
    compute = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
    assert stages == [*[(transfer, compute)] * 2, (compute, transfer), (transfer, host)]


@pytest.mark.parametrize("driver", ["lavapipe", "mesa", "swiftshader"])
def test_waiting_ends_where_nobody_comes(
    open_device: Opener, imports_everywhere: None, words: npt.NDArray[np.uint8], driver: str
) -> None:
    device = opened(open_device, driver, words, 0)
    at_number(device, 2, max_rounds=50)
    device.tries_exchange(PROGRAM, known_numbers(0, 0, LENGTH))
    assert words[:4].view(np.uint32)[0] == 1


def test_nobody_waits_once_a_host_says_so(open_device: Opener, words: npt.NDArray[np.uint8]) -> None:
    """A kernel that would look for minutes comes back, for the word was set before."""
    device = opened(open_device, "lavapipe", words, 0)
    words[:4] = 255
    at_number(device, 2, max_rounds=2**32 - 1)
    device.tries_exchange(PROGRAM, known_numbers(0, 0, LENGTH))


def test_numbers_that_would_come_again_are_forgotten(
    open_device: Opener, words: npt.NDArray[np.uint8]
) -> None:
    device = opened(open_device, "lavapipe", words, 1)
    at_number(device, exchange.LAST_NUMBER - 1)
    own = words[words_offset(0, 1, NUM_RANKS) :].view(np.uint64)
    own[5000] = 77
    device.tries_exchange(PROGRAM, known_numbers(0, 1, LENGTH))
    assert own[0] == words_for(known_numbers(0, 1, 1)[0].view(np.uint32), np.uint32(2))[0] and own[5000] == 0


@pytest.mark.parametrize("driver", ["lavapipe", "mesa"])
def test_each_exchange_is_timed(open_device: Opener, words: npt.NDArray[np.uint8], driver: str) -> None:
    device = opened(open_device, driver, words, 0, timestamps=True)
    at_number(device, 2)
    device.tries_exchange(PROGRAM, known_numbers(0, 0, LENGTH))
    found = device.step_times()
    assert found is not None
    (segment,), exchanges = found
    assert (
        exchanges.shape == (2, 2) and (np.diff([segment[0], *exchanges.reshape(-1), segment[1]]) >= 0).all()
    )


def test_a_device_that_can_not_see_the_words_says_so(
    open_device: Opener, words: npt.NDArray[np.uint8]
) -> None:
    device = open_device("swiftshader", LIMITS)
    with pytest.raises(DeviceError, match="the driver can't import host memory"):
        device.attach_words(words, 0, NUM_RANKS)


class WaitingChannel(HostsChannel):
    """Ranks that wait in one way, and compute a step again whose devices have waited in vain."""

    way = "block"

    def attach(self, stage: Sequence[Rank], slot_bytes: int) -> None:
        super().attach(stage, slot_bytes)
        self.tried = self.vain = 0  # steps in which devices exchange, and those in which they waited in vain
        for rank, collective in zip(stage, self._collectives, strict=True):
            assert isinstance(rank.device, VulkanDevice)
            if self.way == "device":
                assert collective.words is not None
                rank.device.attach_words(collective.words, collective.rank, len(stage))
            else:
                rank.device.wait_by(self.way)

    def _run_stage(self, step: Step, stage: list[Rank]) -> None:
        row_length = padded(stage[0].spec.embedding_length)
        programs = [rank.prepared(step) for rank in stage]
        by_device = self.way == "device" and can_exchange(programs[0], row_length)
        self.tried += by_device
        first = [with_exchanges(program) for program in programs] if by_device else programs
        for rank, program in zip(stage, first, strict=True):
            rank.device.prepare(program)

        def run(collective: Collective) -> bool:
            runner = self._runners[collective.rank]
            size = step.token_ids.size, row_length, lambda kind: None
            if runner.run(first[collective.rank], *size):
                return True
            runner.run(programs[collective.rank], *size)
            if collective.rank == 0:
                collective.resume()
            return False

        results = on_ranks(self._collectives, run)
        assert all(result in (True, False) for result in results), results
        assert len(set(results)) == 1
        self.vain += not results[0]


@contextlib.contextmanager
def waiting_engine(
    path: Path, open_device: Opener, drivers: Sequence[str], waiting: str
) -> Iterator[tuple[LocalEngine, WaitingChannel]]:
    """An engine whose ranks wait in this way, and its channel."""
    channels: list[WaitingChannel] = []
    with contextlib.ExitStack() as stack:

        def open_channel(ranks: Sequence[Rank], model_hash: str) -> LocalChannel:
            kind = type("Channel", (WaitingChannel,), {"way": waiting})
            channels.append(kind(ranks, model_hash, stack, [0] * len(drivers), "f32", False))
            return channels[0]

        remaining = [on(open_device, driver) for driver in drivers]

        def open_next(limits: Limits) -> Device:
            return remaining.pop(0)(limits)

        engine = LocalEngine(
            path,
            [1.0] * len(drivers),
            open_device=open_next,
            open_channel=open_channel,
        )
        yield engine, channels[0]


@pytest.mark.parametrize("drivers", [("lavapipe", "lavapipe"), ("mesa", "lavapipe")], ids=str)
def test_every_way_to_wait_gives_the_same_bits(
    open_device: Opener, plain_model: Path, drivers: tuple[str, ...]
) -> None:
    results = {}
    for waiting in ("block", "poll", "word", "device"):
        with waiting_engine(plain_model, open_device, drivers, waiting) as (engine, _):
            results[waiting] = [engine.logits(step).copy() for step in STEPS]
    for found in results.values():
        for mine, expected in zip(found, results["block"], strict=True):
            assert np.array_equal(mine, expected)


@pytest.fixture
def all_cores() -> Iterator[None]:
    """All cores of the machine, of which a process that shares the tests with others has some only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("devices that wait for each other need a core each, and there is one in all")
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("driver", ["lavapipe", "mesa", "swiftshader"])
def test_two_ranks_exchange_by_their_devices_where_each_has_a_core(
    all_cores: None, imports_everywhere: None, open_device: Opener, plain_model: Path, driver: str
) -> None:
    """Others may need the cores for a while, so that all wait in vain; but some step comes through, and has
    the bits that it has where hosts exchange."""
    with waiting_engine(plain_model, open_device, [driver] * 2, "block") as (engine, _):
        expected = [engine.logits(step).copy() for step in STEPS]
    clock, number = RunningClock(), itertools.count(1)
    with waiting_engine(plain_model, open_device, [driver] * 2, "device") as (engine, channel):
        while channel.vain == channel.tried:
            assert clock() < PATIENCE, f"none of {channel.tried} steps came through"
            for step, logits in zip(STEPS, expected, strict=True):
                again = dataclasses.replace(step, number=next(number))
                assert np.array_equal(engine.logits(again), logits)
