"""Tests features of real files that the reference models lack, against logits of write_variants.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conformance.conftest import error
from tests.conformance.test_architectures import LIMITS, MAX_ERROR, Opener, logits_of, open_device
from tests.conformance.variant import FOLDER
from tests.conformance.variants import VARIANTS

__all__ = ["open_device"]  # a fixture

RUNS = [("lavapipe", 1), ("lavapipe", 3), ("numpy", 1)]


def test_every_variant_has_logits() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(VARIANTS)


@pytest.mark.parametrize(("open_device", "num_ranks"), RUNS, indirect=["open_device"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, num_ranks: int, builder: ModuleType, open_device: Opener, tmp_path: Path) -> None:
    variant, path = VARIANTS[name], tmp_path / f"{name}.gguf"
    variant.build(builder, path)
    with np.load(FOLDER / f"{name}.npz") as arrays:
        reference = dict(arrays)
    limits = dataclasses.replace(
        LIMITS,
        context_length=variant.context,
        num_blocks=-(-variant.context // LIMITS.block_length),
        num_window_blocks=-(-variant.context // LIMITS.block_length),
        max_rows=variant.num_tokens,
        max_logit_rows=variant.num_tokens,
    )
    found = error(logits_of(path, reference, open_device, limits, num_ranks), reference)
    assert found <= MAX_ERROR["f32"]
