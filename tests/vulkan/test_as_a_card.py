"""Whole ranks on a driver for CPUs that is described as a discrete card: they go the ways that only cards go.

Nothing is faster so, and all of it must be right. What a run does is compared with NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.drivers import REPOSITORY
from tests.lone_worker import Workers, opened_workers
from tests.models import LIMITS
from tests.steps import Rows, step_of
from tests.vulkan.conftest import select_driver
from tplaunch.coordinator.messages import Step, StepDone, Wanted
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.messages import Product, TuningJob
from tplaunch.worker.jobs.tuning import tune_device
from tplaunch.worker.programs.moving import MANY_ROWS, moves
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan import budget
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.listing import PhysicalDevice, describe
from tplaunch.worker.vulkan.measuring import trials, tuning

MODEL = REPOSITORY / "examples/demo-stories.gguf"
CARD_LIMITS = dataclasses.replace(LIMITS, max_rows=32, kv_type="f16")
PROMPT = 1 + np.arange(20) * 7
WANTED = Wanted(
    num_candidates=np.array([3], np.int32), sum_rows=np.zeros(1, np.int32), whole_rows=np.zeros(1, np.int32)
)
FEW_OPERATIONS = 5e6  # of a submission: less than a prompt's largest product


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is found out about the card."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def card(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has lavapipe described as a card of which nothing is known; returns a folder for its ranks."""

    def described(index: int, handle: Any) -> PhysicalDevice:
        return dataclasses.replace(describe(index, handle), type="discrete")

    select_driver(monkeypatch, "lavapipe")
    monkeypatch.setattr("tplaunch.worker.vulkan.context.describe", described)
    monkeypatch.setattr(tuning, "cache_folder", lambda: cache)
    monkeypatch.setattr(tuning, "MAX_WEIGHTS", 1 << 12)
    monkeypatch.setattr(tuning, "ROTATED_BYTES", 1 << 14)
    monkeypatch.setattr(tuning, "PROMPT_ROWS", 32)
    monkeypatch.setattr(tuning, "NUM_ROUNDS", 1)
    monkeypatch.setattr(tuning, "MAX_REPEATS", 4)
    monkeypatch.setitem(budget.FIRST_OPERATIONS, "discrete", FEW_OPERATIONS)
    return tmp_path


def steps() -> list[Step]:
    """A prompt of as many rows as partial sums move for by themselves, and a row behind it."""
    tables = {0: range(CARD_LIMITS.blocks_per_seat)}
    prompt = step_of(1, [Rows(PROMPT.tolist())], [len(PROMPT) - 1], tables)
    row = step_of(2, [Rows([5], len(PROMPT))], [0], tables)
    return [
        dataclasses.replace(prompt, wanted=WANTED, of_prompts=True),
        dataclasses.replace(row, wanted=WANTED),
    ]


def run(workers: Workers) -> list[list[StepDone]]:
    """Runs the steps, and keeps their logits, which are the devices' memory."""
    return [
        [dataclasses.replace(done, logits=done.logits.copy()) for done in workers.run(step)]
        for step in steps()
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StepDone]]:
    """The steps in NumPy, by one rank."""
    with opened_workers(MODEL, tmp_path_factory.mktemp("numpy"), CARD_LIMITS, [None]) as workers:
        yield [done for (done,) in run(workers)]


def vulkan_devices(workers: Workers) -> list[VulkanDevice]:
    devices = [rank.device for rank in workers.ranks]
    assert all(isinstance(device, VulkanDevice) and not device.on_cpu for device in devices)
    return devices  # type: ignore[return-value]


def programs_of(device: VulkanDevice, rows: int) -> list[Program]:
    """Returns what a device has prepared for so many rows."""
    return [each.program for each in device._prepared.values() if each.program.rows == rows]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_card_computes_what_numpy_does(card: Path, expected: list[StepDone], num_ranks: int) -> None:
    with opened_workers(MODEL, card, CARD_LIMITS, [0] * num_ranks) as workers:
        found = run(workers)
        for device in vulkan_devices(workers):
            assert device.groups_logits and device.has_own_memory
            (prompt,) = programs_of(device, 32)
            assert bool([*moves(prompt)]) == (num_ranks > 1) and prompt.rows >= MANY_ROWS
            assert not any([*moves(program)] for program in programs_of(device, 1))
            starts = device._prepared[id(prompt)].submission.starts
            assert starts[-1] > len(prompt.segments)
    for done, reference in zip(found, expected, strict=True):
        logits = np.concatenate([one.logits for one in done])
        np.testing.assert_allclose(logits, reference.logits, rtol=2e-3, atol=2e-3)
        assert likeliest(done) == likeliest([reference])
        sums = np.logaddexp.reduce([one.answer.log_sums[0] for one in done])
        np.testing.assert_allclose(sums, reference.answer.log_sums[0], rtol=1e-4)


def likeliest(done: list[StepDone]) -> list[int]:
    """The three likeliest tokens, which the ranks have found by the groups of their logits."""
    pairs: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]
    pairs = [(one.answer.ids, one.answer.logits) for one in done]
    ids, logits = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return [int(ids[place]) for place in np.argsort(-logits)[:3]]


def test_a_card_is_tuned_on_copies_and_on_a_device_of_its_own(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, opened = [], []
    make_trial = trials.make_trial

    def counted(*arguments: Any) -> trials.Trial:
        made = make_trial(*arguments)
        copies.append((made.rows, len(made.ops)))
        return made

    def noted(*arguments: Any) -> Context:
        opened.append(arguments)
        return Context(*arguments)

    monkeypatch.setattr(trials, "make_trial", counted)
    monkeypatch.setattr("tplaunch.worker.vulkan.measuring.bench.Context", noted)
    monkeypatch.setattr(tuning, "ROTATED_BYTES", 3 * 64 * 68)  # of a matrix three times
    found = tune_device(TuningJob("f16", "f32", (Product("Q8_0", 64, 64, "f32"),), ()), DeviceId(0))
    assert copies == [(1, 3), (4, 3), (2, 3), (32, 3)] and len(opened) == 2
    names = {measurement.name: measurement for measurement in found.measurements}
    assert names.keys() >= {tuning.SUBMISSION, "matvec_q8_0 small", "tiled_q8_0"}
    for measurement in found.measurements:
        assert all(seconds for seconds in measurement.seconds.values()), measurement  # all had the same bits


def test_a_card_whose_driver_takes_memory_back_says_so(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "available_bytes", lambda context: 1 << 10)
    monkeypatch.setattr(VulkanDevice, "prove", lambda *_: [])  # which other tests do
    monkeypatch.setattr(VulkanDevice, "tune", lambda *_: None)
    with opened_workers(MODEL, card, CARD_LIMITS, [0]) as workers:
        (note,) = workers.ranks[0].notes
    assert "but its driver now grants 0.0 GiB of its own memory" in note
