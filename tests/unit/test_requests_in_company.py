"""The bits of a text's logits depend on nothing but the text: on NumPy's device, with whole requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LocalEngine, examples, open_model
from tests.requests_in_company import Arrival, Recorder, arrivals, check_texts
from tests.same_bits import RECURRENT, WRITERS
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import Stage
from tplaunch.coordinator.split.stages import cut_layers, cut_ranks, make_stages

pytestmark = pytest.mark.unit

ROOMY = Limits(
    context_length=256, num_blocks=64, block_length=8, max_rows=256, max_logit_rows=256, num_slots=12,
    max_sequences=4,
)  # fmt: skip


def stages_of(path: Path, num_ranks: int, num_stages: int) -> tuple[Stage, ...]:
    """Stages of as many ranks and, nearly, as many layers."""
    num_layers = open_model(path)[1].num_layers
    ranks = cut_ranks((HEAD,) * num_ranks * num_stages, num_stages)
    return make_stages(ranks, cut_layers([1.0] * num_layers, [1.0] * num_stages))


@pytest.mark.parametrize("name", WRITERS)
def test_texts_have_the_same_bits_in_any_company(name: str, tmp_path: Path) -> None:
    path, num_rows = tmp_path / "model.gguf", 0
    WRITERS[name](path)
    num_slots = ROOMY.num_slots if name in RECURRENT else 0

    @examples(12)
    @given(
        drawn=arrivals(100),
        num_ranks=st.sampled_from([1, 3]),
        num_stages=st.sampled_from([1, 2]),
        max_rows=st.sampled_from([1, 5, 32]),
        spare_blocks=st.sampled_from([0, 2, 30]),
        kv_type=st.sampled_from(["f32", "f16", "q8_0"]),
    )
    def check(
        drawn: list[Arrival], num_ranks: int, num_stages: int, max_rows: int, spare_blocks: int, kv_type: str
    ) -> None:
        nonlocal num_rows
        roomy = dataclasses.replace(ROOMY, kv_type=kv_type, num_slots=num_slots)
        tight = dataclasses.replace(
            roomy, max_rows=max_rows, max_logit_rows=min(max_rows, 4), num_blocks=32 + spare_blocks
        )
        weights = [1.0] * num_ranks
        with pytest.MonkeyPatch.context() as patch:
            recorder = Recorder(patch)
            alone = LocalEngine(path, weights, roomy)
            engine = LocalEngine(
                path, weights * num_stages, tight, stages=stages_of(path, num_ranks, num_stages)
            )
            check_texts(recorder, engine, drawn, alone)
        num_rows += recorder.num_rows

    check()
    assert num_rows > 100
