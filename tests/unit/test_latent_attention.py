"""Latent attention on the NumPy device against a dense float64 forward pass, and what metadata says of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.latent_model import latent_logits, latent_spec, write_latent
from tests.models import LIMITS, LocalEngine, open_model, tensor_infos, tensor_shapes
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.model.attention import Temperature
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.buffers.table import cache_buffers

TOKENS = [1, 5, 47, 0, 9, 9, 23, 11, 30, 2, 17, 8, 46, 3, 3, 21, 40, 12]
SPECS = {
    "plain": latent_spec(),
    "queries without a latent": latent_spec(query_rank=0),
    "one head": latent_spec(num_heads=1),
    "long": latent_spec(rank=260, nope=32, rope=16),
}


@pytest.mark.parametrize("weights", [[1], [1, 1], [2, 1, 1, 1]])
@pytest.mark.parametrize("case", SPECS)
def test_logits_are_those_of_the_dense_forward_pass(tmp_path: Path, case: str, weights: list[float]) -> None:
    """Also on ranks without a head."""
    spec = SPECS[case]
    expected = latent_logits(spec, write_latent(tmp_path / "model.gguf", spec), TOKENS)
    engine = LocalEngine(tmp_path / "model.gguf", weights)
    assert engine.ranks[0].spec == spec
    found = all_logits(engine, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [[1], [2, 0, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize(("kind", "rank"), [("F32", 40), ("F16", 40), ("Q8_0", 64), ("Q4_0", 96)])
def test_files_that_do_not_part_keys_from_values(
    tmp_path: Path, kind: str, rank: int, weights: list[float]
) -> None:
    """As those of DeepSeek-V2-Lite that are older than the absorbed form."""
    spec = latent_spec(rank=rank, query_rank=0)
    expected = latent_logits(spec, write_latent(tmp_path / "model.gguf", spec, kind), TOKENS)
    engine = LocalEngine(tmp_path / "model.gguf", weights)
    assert engine.ranks[0].spec == spec
    found = all_logits(engine, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_latent_is_cached_and_on_every_rank_that_has_heads() -> None:
    spec = latent_spec(num_heads=2)
    for share, heads in zip(make_plan(spec, [1, 1, 1]), (1, 0, 1), strict=True):
        assert len(share.layers[0].heads) == heads
        buffers = cache_buffers(spec, share, LIMITS)
        positions = LIMITS.num_blocks * LIMITS.block_length
        assert buffers.keys() == {"cache.0.key", "cache.1.key"}
        assert buffers["cache.0.key"].nbytes == positions * 48 * 4 * (heads > 0)


def test_each_rank_holds_its_heads_matrices() -> None:
    spec = latent_spec(num_heads=3)
    tensors = tensor_infos(tensor_shapes(spec))
    held = [rank_shards(spec, share, tensors) for share in make_plan(spec, [1, 1])]
    for name, length in (("attn_q_b", 20), ("attn_k_b", 40), ("attn_v_b", 20)):
        rows = [shards[f"blk.0.{name}.weight"].rows for shards in held]
        assert [len(span) for span in rows] == [2 * length, length] and rows[0].stop == rows[1].start


def test_yarn_makes_scores_sharper(tmp_path: Path) -> None:
    """As DeepSeek's modelling code has it: the square of mscale, and cosines as they are."""
    spec = latent_spec()
    write_latent(tmp_path / "model.gguf", spec)
    file = read_gguf(tmp_path / "model.gguf")
    yarn = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 40.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_log_multiplier": 0.1 * 0.707,
    }
    changed = model_spec({**file.metadata, **{f"deepseek2.{key}": yarn[key] for key in yarn}}, file.tensors)
    sharpness = 1 + 0.1 * 0.707 * math.log(40)
    assert changed.attentions[0].scale == pytest.approx(spec.attentions[0].scale * sharpness**2)
    assert changed.ropes[0].magnitude == 1.0 and changed.ropes[0].yarn is not None


def test_temperature(tmp_path: Path) -> None:
    spec = latent_spec()
    write_latent(tmp_path / "model.gguf", spec)
    file = read_gguf(tmp_path / "model.gguf")
    keys = {"attention.temperature_scale": 0.1, "attention.temperature_length": 8192}
    changed = model_spec({**file.metadata, **{f"deepseek2.{key}": keys[key] for key in keys}}, file.tensors)
    assert changed.temperature == Temperature(8192, 0.1, 0.0)
    assert all(attention.has_temperature for attention in changed.attentions)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("attention.key_length_mla", 8, "with queries of 8, of which 8 are rotated"),
        (
            "attention.key_length_mla",
            22,
            r"the model's attention.key_length_mla \(22\) is not a multiple of 4",
        ),
        ("attention.kv_lora_rank", 516, "value_length is 516; it must be a multiple of 4, at most 512"),
        ("attention.kv_lora_rank", 0, "a latent of 0 elements"),
        ("attention.value_length_mla", None, "no deepseek2.attention.value_length_mla"),
    ],
)
def test_impossible_latents_are_refused(tmp_path: Path, key: str, value: Any, sentence: str) -> None:
    write_latent(tmp_path / "model.gguf", latent_spec())
    file = read_gguf(tmp_path / "model.gguf")
    metadata = {**file.metadata, f"deepseek2.{key}": value}
    with pytest.raises(ModelError, match=sentence):
        model_spec({name: item for name, item in metadata.items() if item is not None}, file.tensors)


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    write_latent(tmp_path / "model.gguf", latent_spec())
    file, spec = open_model(tmp_path / "model.gguf")
    name = "blk.1.attn_v_b.weight"
    tensors = {**file.tensors, name: dataclasses.replace(file.tensors[name], shape=(3, 40, 20))}
    with pytest.raises(ModelError, match=r"attn_v_b.weight' has the shape \[3, 40, 20\], expected \[3, 20"):
        rank_shards(spec, make_plan(spec, [1])[0], tensors)
