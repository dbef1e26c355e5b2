"""`tplaunch logits`, with processes and collectives, against llama.cpp's logits: one model, every split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.command_line import CommandLine
from tests.conformance.conftest import Reference, error

MODEL = "llama-dense"
MAX_ERROR = {"f32": 1e-8, "f16": 1e-5, "q8_0": 3e-4}  # normalised mean squared, by KV type
RUNS = [
    *((",".join([device] * num_ranks), "f32") for device in ("0", "numpy") for num_ranks in (1, 2, 3, 4, 5)),
    *((devices, "f32") for devices in ("cpu", "cpu,cpu,cpu", "0,cpu")),
    *((devices, "f16") for devices in ("0,0,0", "numpy", "cpu")),
    *((devices, "q8_0") for devices in ("0", "0,0,0,0,0", "numpy,numpy", "cpu,cpu")),
]

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def model(build: Callable[[str], Path]) -> Path:
    return build(MODEL)


@pytest.fixture(scope="session")
def reference(reference_of: Callable[[str], Reference]) -> Reference:
    return reference_of(MODEL)


def run(tplaunch: CommandLine, model: Path, tokens: npt.NDArray[Any], out: Path, *options: str) -> Floats:
    text = ",".join(map(str, tokens))
    tplaunch("logits", "--activations", "f32", *options, model, "--tokens", text, "--out", out, check=True)
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["tokens"], tokens)
        logits: Floats = arrays["logits"]
    assert logits.dtype == np.float32 and len(logits) == len(tokens)
    return logits


@pytest.mark.parametrize(("devices", "kv_type"), RUNS)
def test_logits(
    tplaunch: CommandLine,
    model: Path,
    reference: Reference,
    tmp_path: Path,
    devices: str,
    kv_type: str,
) -> None:
    options = ("--devices", devices, *([] if kv_type == "f16" else ["--kv-type", kv_type]))  # f16: default
    logits = run(tplaunch, model, reference["tokens"], tmp_path / "logits.npz", *options)
    found = error(logits, reference)
    assert found <= MAX_ERROR[kv_type]
    times = 10 if kv_type == "q8_0" else 100  # eight bits come closer to it
    assert found < reference["swap_nmse"] / times, "the model hardly tells one order of tokens from another"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3moe-moe", ("--devices", "0,cpu", "--kv-type", "f32")),
        ("qwen3moe-moe", ("--devices", "cpu,0", "--prefill-chunk", "7", "--kv-type", "q8_0")),
        ("deepseek2-moe", ("--devices", "cpu,0,0,numpy", "--tensor-split", "1,2,1,2")),
        ("qwen2moe-moe", ("--devices", "0,cpu,cpu,0", "--pipeline-split", "1,1", "--sums", "moved")),
    ],
)
def test_experts_on_processors_and_all_else_on_cards(
    tplaunch: CommandLine,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    tmp_path: Path,
    name: str,
    options: tuple[str, ...],
) -> None:
    """Whichever comes first, in stages, and with processors of which one tells another where rows go."""
    reference, words = reference_of(name), ("--expert-split", "devices", *options)
    logits = run(tplaunch, build(name), reference["tokens"], tmp_path / "logits.npz", *words)
    kv_type = options[options.index("--kv-type") + 1] if "--kv-type" in options else "f16"
    bound = 1e-6 if kv_type == "f32" else MAX_ERROR[kv_type]
    assert error(logits, reference) <= bound


@pytest.mark.parametrize("devices", ["0,0,0", "numpy"])
@pytest.mark.parametrize("chunk", ["1", "7"])
def test_prefill_in_chunks_gives_the_same(
    tplaunch: CommandLine,
    model: Path,
    reference: Reference,
    tmp_path: Path,
    devices: str,
    chunk: str,
) -> None:
    """Chunks of one row are decoding: matrix-vector kernels instead of matrix-matrix ones."""
    options = ("--devices", devices, "--kv-type", "f32", "--prefill-chunk", chunk)
    logits = run(tplaunch, model, reference["tokens"], tmp_path / "logits.npz", *options)
    assert error(logits, reference) <= MAX_ERROR["f32"]
