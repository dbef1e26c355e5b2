"""Perplexity against llama.cpp's logits of the same float32 model, to which its definition was applied.

They come from llama-server of build 10434 on its CPU backend, with a float32 KV cache: the log probabilities
that it tells of each position (n_probs), for `--context 128` and three chunks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.drivers import REPOSITORY

TEXT = REPOSITORY / "examples/demo_model/plots/friendship.txt"
RUNNING = "[1]100.6142,[2]96.1268,[3]153.8783,"
FINAL = "Final estimate: PPL = 153.8783 +/- 70.49449"
FLOATS = ("--activations", "f32")


@pytest.fixture
def model(shared_dir: Path) -> Path:
    path = shared_dir / "models/stories260K-f32.gguf"
    if not path.is_file():
        pytest.skip("no ../shared/models/stories260K-f32.gguf")
    return path


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("devices", ["numpy", "numpy,numpy", "0,0"])
def test_perplexity_is_llama_cpps(tplaunch: CommandLine, model: Path, devices: str) -> None:
    options = ("--devices", devices, "--context", "128", "--chunks", "3", "--kv-type", "f32", *FLOATS)
    done = tplaunch("perplexity", *options, model, TEXT, check=True)
    running, final, manifest = done.stdout.splitlines()
    for found, expected in ((running, RUNNING), (final, FINAL)):  # float32 sums differ in their last bits
        assert numbers(found) == pytest.approx(numbers(expected), rel=3e-6)
    assert json.loads(manifest.removeprefix("manifest: "))["options"]["context"] == 128
