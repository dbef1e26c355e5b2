"""The bits of a text's logits depend on nothing but the text: on drivers, with whole requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.models import LocalEngine, examples
from tests.requests_in_company import Arrival, Recorder, arrivals, check_texts
from tests.same_bits import RECURRENT, WRITERS
from tests.vulkan.conftest import Opener
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import Device

pytestmark = pytest.mark.vulkan

ROOMY = Limits(
    context_length=320, num_blocks=40, block_length=8, max_rows=320, max_logit_rows=320, max_sequences=3
)


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("kind", ["dense", "delta"])
@pytest.mark.parametrize("driver", ["lavapipe", "mesa"])
def test_texts_have_the_same_bits_in_any_company(
    open_device: Opener, tmp_path: Path, driver: str, kind: str, num_ranks: int
) -> None:
    """Prompts share up to 270 tokens, so that keys reach into a second cut; room is short."""
    path = tmp_path / "model.gguf"
    WRITERS[kind](path)
    roomy = dataclasses.replace(ROOMY, num_slots=9 if kind in RECURRENT else 0)
    tight = dataclasses.replace(roomy, max_rows=48, max_logit_rows=4, num_blocks=44)

    def open_next(limits: Limits) -> Device:
        return open_device(driver, limits)

    alone, crowded = (LocalEngine(path, [1.0] * num_ranks, limits, open_next) for limits in (roomy, tight))

    @settings(examples(4), suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(arrivals(270))
    def check(drawn: list[Arrival]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            check_texts(Recorder(patch), crowded, drawn, alone)

    check()
