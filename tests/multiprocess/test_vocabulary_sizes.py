"""Embeddings with more rows than the tokenizer has texts, to a round number: the rest is never made."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.command_line import CommandLine
from tests.models import make_spec, write_llama
from tests.vocabularies import byte_level_metadata

NUM_TEXTS, NUM_ROWS = 257, 320


@pytest.fixture
def padded_model(tmp_path: Path) -> Path:
    """Its padding is what it would rather write than anything else."""
    path = tmp_path / "padded.gguf"
    write_llama(path, make_spec(vocabulary_size=NUM_ROWS), vocabulary=byte_level_metadata([("a", "b")]))
    output = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "output.weight")
    weights = np.memmap(path, np.float32, "r+", int(output.data_offset), (NUM_ROWS, 32))
    weights[NUM_TEXTS:] *= 50
    weights.flush()
    return path


@pytest.mark.parametrize("how", [("--temperature", "0"), ("--seed", "3"), ("--tokens", "1,2")])
def test_padding_is_never_made(tplaunch: CommandLine, padded_model: Path, how: tuple[str, str]) -> None:
    prompt = () if "--tokens" in how else ("-p", "Once")
    result = tplaunch("--devices", "numpy", padded_model, *prompt, *how, "-n", "20", "--json", check=True)
    tokens = json.loads(result.stdout)["tokens"]
    assert len(tokens) == 20 and max(tokens) < NUM_TEXTS


def test_logits_are_those_of_all_rows(tplaunch: CommandLine, padded_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "logits.npz"
    tplaunch("logits", "--devices", "numpy", padded_model, "--tokens", "1,2", "--out", out, check=True)
    with np.load(out) as arrays:
        logits = arrays["logits"]
    assert logits.shape == (2, NUM_ROWS)
    assert (logits.argmax(axis=1) >= NUM_TEXTS).all(), "the model would rather write padding"
