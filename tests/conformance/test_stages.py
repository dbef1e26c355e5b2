"""Every architecture in stages, cut anywhere, has the bits that it has in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.conftest import Reference
from tests.conformance.test_architectures import LIMITS, MODELS, SAMPLE, Opener, open_device
from tests.models import LocalEngine, open_model
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.exchanges import num_all_reduces
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import Span, Stage, make_plan
from tplaunch.coordinator.split.stages import given_layers, make_stages
from tplaunch.worker.programs.transformer import build_program

__all__ = ["open_device"]

SHORT = dataclasses.replace(LIMITS, max_rows=11, max_logit_rows=11)
CASES = [
    *(("numpy", name) for name in MODELS),
    *((device, name) for device in ("lavapipe", "cpu") for name in SAMPLE),
]


def cuts(num_layers: int, ranks_a_stage: int) -> Iterator[tuple[Stage, ...]]:
    """Two stages, cut behind each layer; and a stage for each layer."""
    ways = [[cut, num_layers - cut] for cut in range(1, num_layers)]
    for counts in [*ways, [1] * num_layers] if num_layers > 2 else ways:
        ranks = [Span(stage, stage + 1).scaled(ranks_a_stage) for stage in range(len(counts))]
        yield make_stages(ranks, given_layers(counts, num_layers))


@pytest.mark.parametrize("ranks_a_stage", [1, 2])
@pytest.mark.parametrize(("open_device", "name"), CASES, indirect=["open_device"])
def test_the_same_bits_in_stages(
    name: str,
    ranks_a_stage: int,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """A prompt of several steps, the last of one row, with logits everywhere."""
    path, tokens = build(name), reference_of(name)["tokens"].tolist()[:34]
    expected = all_logits(LocalEngine(path, [1.0] * ranks_a_stage, SHORT, open_device), tokens)
    num_layers = open_model(path)[1].num_layers
    for stages in cuts(num_layers, ranks_a_stage):
        engine = LocalEngine(path, [1.0] * stages[-1].ranks.stop, SHORT, open_device, stages=stages)
        found = all_logits(engine, tokens)
        unlike = np.flatnonzero((expected.view(np.uint32) != found.view(np.uint32)).any(axis=1))
        assert not unlike.size, f"{stages}: other bits at {unlike.size} positions, from {unlike[0]}"


@pytest.mark.parametrize("name", MODELS)
def test_all_reduces_of_stages_are_counted(name: str, build: Callable[[str], Path]) -> None:
    file, spec = open_model(build(name))
    for stages in cuts(spec.num_layers, 2):
        for share in make_plan(spec, [1.0] * stages[-1].ranks.stop, stages=stages):
            shards = rank_shards(spec, share, file.tensors)
            for logit_rows in (0, 1):
                program = build_program(spec, share, shards, 2, 4, logit_rows)
                counted = num_all_reduces(spec, 2, logit_rows > 0, stage=share.stage_layers)
                assert program.num_all_reduces == counted


@pytest.mark.parametrize("name", MODELS)
def test_stages_hold_every_tensor_once(name: str, build: Callable[[str], Path]) -> None:
    """The tensors of a layer are in its stage alone."""
    file, spec = open_model(build(name))
    (alone,) = make_plan(spec, [1.0])
    whole = rank_shards(spec, alone, file.tensors)
    for stages in cuts(spec.num_layers, 1):
        plan = make_plan(spec, [1.0] * len(stages), stages=stages)
        parts = [rank_shards(spec, share, file.tensors) for share in plan]
        assert {name: shard for part in parts for name, shard in part.items()} == whole
        assert sum(map(len, parts)) == len(whole)
