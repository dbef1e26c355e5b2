"""`tplaunch logits` against llama.cpp's logits, for every split and on every device."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.command_line import CommandLine

MODELS = ["llama-dense", "qwen2-dense", "qwen3-dense"]
SEED = 100  # of the weights that llama.cpp's logits belong to
MAX_ERROR = {"f32": 1e-8, "f16": 1e-5, "q8_0": 3e-4}  # normalised mean squared, by KV type
DEVICES = [",".join([device] * num_ranks) for device in ("0", "cpu") for num_ranks in (1, 2, 3, 4, 5)]

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def builder(shared_dir: Path) -> ModuleType:
    """The module that rebuilds the models' files."""
    spec = importlib.util.spec_from_file_location("conformance_models", shared_dir / "conformance/models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def model(name: str, builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("models") / f"{name}.gguf"
    builder.write(builder.specs()[name], path, SEED)
    return path


@pytest.fixture(scope="session")
def reference(name: str, shared_dir: Path) -> dict[str, npt.NDArray[Any]]:
    """tokens int32[64]; logits float32[32, vocabulary] of the last 32 of them."""
    with np.load(shared_dir / f"conformance/logits/{name}.npz") as arrays:
        return dict(arrays)


def run(tplaunch: CommandLine, model: Path, tokens: npt.NDArray[Any], out: Path, *options: str) -> Floats:
    text = ",".join(map(str, tokens))
    tplaunch("logits", *options, model, "--tokens", text, "--out", out, check=True)
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["tokens"], tokens)
        logits: Floats = arrays["logits"]
    assert logits.dtype == np.float32 and len(logits) == len(tokens)
    return logits


def error(logits: Floats, reference: npt.NDArray[Any]) -> float:
    """Normalised mean squared error."""
    difference = logits.astype(np.float64) - reference
    return float((difference**2).sum() / (reference.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("kv_type", MAX_ERROR)
@pytest.mark.parametrize("devices", DEVICES)
def test_logits(
    tplaunch: CommandLine,
    model: Path,
    reference: dict[str, npt.NDArray[Any]],
    tmp_path: Path,
    devices: str,
    kv_type: str,
) -> None:
    options = ("--devices", devices, *([] if kv_type == "f16" else ["--kv-type", kv_type]))  # f16: default
    logits = run(tplaunch, model, reference["tokens"], tmp_path / "logits.npz", *options)
    found = error(logits[-32:], reference["logits"])
    assert found <= MAX_ERROR[kv_type]
    times = 10 if kv_type == "q8_0" else 100  # eight bits come closer to it
    assert found < reference["swap_nmse"] / times, "the model hardly tells one order of tokens from another"


@pytest.mark.parametrize("devices", ["0,0,0", "cpu"])
@pytest.mark.parametrize("chunk", ["1", "7"])
def test_prefill_in_chunks_gives_the_same(
    tplaunch: CommandLine,
    model: Path,
    reference: dict[str, npt.NDArray[Any]],
    tmp_path: Path,
    devices: str,
    chunk: str,
) -> None:
    """Chunks of one row are decoding: matrix-vector kernels instead of matrix-matrix ones."""
    options = ("--devices", devices, "--kv-type", "f32", "--prefill-chunk", chunk)
    logits = run(tplaunch, model, reference["tokens"], tmp_path / "logits.npz", *options)
    assert error(logits[-32:], reference["logits"]) <= MAX_ERROR["f32"]
