"""The reference models, rebuilt from their specs, and llama.cpp's logits for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SEED = 100  # of the weights that llama.cpp's logits belong to

Floats = npt.NDArray[np.float32]
Reference = dict[str, npt.NDArray[Any]]


def load_builder(shared_dir: Path) -> ModuleType:
    """The module that rebuilds the models' files."""
    spec = importlib.util.spec_from_file_location("conformance_models", shared_dir / "conformance/models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def builder(shared_dir: Path) -> ModuleType:
    """See load_builder."""
    return load_builder(shared_dir)


@pytest.fixture(scope="session")
def build(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model's file, once a session, with matrices of float32 or float16: both hold the same."""
    folder, specs = tmp_path_factory.mktemp("models"), builder.specs()

    def path_of(name: str, dtype: str = "F32") -> Path:
        path: Path = folder / f"{name}-{dtype}.gguf"
        if not path.exists():
            builder.write(specs[name], path, SEED, dtype)
        return path

    return path_of


@pytest.fixture(scope="session")
def reference_of(shared_dir: Path) -> Callable[[str], Reference]:
    """tokens int32[64]; logits float32[32, vocabulary] of the last 32 of them; swap_nmse."""

    def load(name: str) -> Reference:
        with np.load(shared_dir / f"conformance/logits/{name}.npz") as arrays:
            return dict(arrays)

    return load


def error(logits: Floats, reference: Reference) -> float:
    """Normalised mean squared, of the last positions."""
    expected = reference["logits"].astype(np.float64)
    difference = logits[-len(expected) :].astype(np.float64) - expected
    return float((difference**2).sum() / (expected**2).sum())
