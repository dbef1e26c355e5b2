"""Times of steps without peers: every kind of model runs as in a run, and every point is told."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import numpy as np
import pytest

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.framing import MessageReader, framed
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.predicting.samples import layer_kinds, samples
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.messages import (
    JOBS,
    STEPS_ANSWERS,
    Begin,
    Prepared,
    StepPoint,
    StepSeconds,
    StepsJob,
)
from tplaunch.worker.jobs.pipe import JobPipe
from tplaunch.worker.jobs.run import run_job
from tplaunch.worker.jobs.steps import StepMaker

POINTS = (StepPoint(1, 5), StepPoint(1, 63, 2), StepPoint(16, 0, with_logits=False), StepPoint(16, 16))


def job(name: str, num_ranks: int) -> StepsJob:
    """A layer of each kind of a shape, as one of so many ranks, with a small vocabulary."""
    shape = replace(SHAPES[name], spec=replace(SHAPES[name].spec, vocabulary_size=512))
    tensors = shape_tensors(shape, "Q8_0")
    sample = samples(layer_kinds(shape.spec, tensors), 0)[0]
    spec = sample.spec(shape.spec)
    limits = Limits(
        context_length=64,
        num_blocks=4,
        max_rows=16,
        max_sequences=2,
        num_slots=2 if spec.is_recurrent else 0,
        num_window_blocks=4 if spec.longest_window else 0,
    )
    load = Load(
        Origin(),
        spec,
        sample.tensors(tensors),
        sample.share(make_plan(shape.spec, [1.0] * num_ranks)[0]),
        Placement.single(num_ranks),
        limits,
        RankOptions(timestamps=True),
        bytes(16),
    )
    return StepsJob(load, POINTS, True, 0.0)


@pytest.mark.parametrize(
    ("name", "num_ranks"), [("tiny", 1), ("tiny", 2), ("gemma-3-270m", 2), ("qwen3.5-0.8b", 1)]
)
def test_every_point_of_a_rank_is_timed(name: str, num_ranks: int) -> None:
    inner, outer = os.pipe()
    output = io.BytesIO()
    try:
        os.set_blocking(outer, True)
        for message in (job(name, num_ranks), *(Begin() for _ in POINTS)):
            os.write(outer, framed(message))
        assert run_job(JobPipe(inner, output, (*JOBS, Begin)), DeviceId(index=None), 0) == 0
    finally:
        os.close(inner)
        os.close(outer)
    answers = list(MessageReader(STEPS_ANSWERS).feed(output.getvalue()))
    answers = answers[len(POINTS) :]  # behind a sign of life for each
    assert isinstance(answers[0], Prepared)
    assert len(answers) == 1 + len(POINTS)
    for answer in answers[1:]:
        assert isinstance(answer, StepSeconds)
        assert answer.seconds > 0 and 0 < answer.device_part < 1


def test_steps_have_whole_tables_and_logits_of_last_rows() -> None:
    maker = StepMaker(Limits(context_length=64, num_blocks=3, max_rows=16, max_sequences=2, num_slots=2))
    step = maker.step(StepPoint(8, 32, 2))
    assert step.number == 1 and step.token_ids.size == 16
    assert step.runs.reshape(-1, 5).tolist() == [[0, 32, 8, 0, 0], [1, 32, 8, 1, 1]]
    assert step.logit_rows.tolist() == [7, 15]
    assert step.tables.reshape(-1, 3).tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 1, 0]]
    first = maker.step(StepPoint(1, 0, with_logits=False))
    assert first.number == 2 and first.logit_rows.size == 0 and first.runs.tolist() == [0, 0, 1, -1, 0]
    assert np.array_equal(first.tables, [0, 0, 0])


@pytest.mark.parametrize("numbers", [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_a_point_has_rows_and_a_position(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="rows from"):
        StepPoint(*numbers)
