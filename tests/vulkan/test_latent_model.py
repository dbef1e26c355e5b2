"""Whole models with latent attention on a device; tests/unit/test_latent_attention.py has them in NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.latent_model import latent_logits, latent_spec, write_latent
from tests.models import LIMITS, LocalEngine
from tests.vulkan.conftest import Opener
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.serving.text_logits import all_logits

TOKENS = [1, 5, 47, 0, 9, 9, 23, 11, 30, 2, 17, 8, 46, 3, 3, 21, 40, 12]


@pytest.mark.parametrize("max_rows", [16, 1])
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    "spec",
    [latent_spec(), latent_spec(num_heads=5, rank=512, nope=128, rope=64, value=128, query_rank=0)],
    ids=["short", "as long as DeepSeek's"],
)
def test_logits_are_those_of_the_dense_forward_pass(
    open_device: Opener, tmp_path: Path, spec: ModelSpec, num_ranks: int, max_rows: int
) -> None:
    expected = latent_logits(spec, write_latent(tmp_path / "model.gguf", spec), TOKENS)
    limits = dataclasses.replace(LIMITS, max_rows=max_rows)
    engine = LocalEngine(
        tmp_path / "model.gguf", [1] * num_ranks, limits, lambda limits: open_device("lavapipe", limits)
    )
    found = all_logits(engine, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5)
