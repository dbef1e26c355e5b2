"""The NumPy device against a dense float64 forward pass, written from the papers and not from the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import FACTORS, LIMITS, Floats, LocalEngine, make_spec, write_llama
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.serving.text_logits import all_logits

Doubles = npt.NDArray[np.float64]
TOKENS = [1, 5, 47, 0, 9, 9, 23, 11, 30, 2, 17, 8, 46, 3, 3, 21, 40, 12]


def reference_logits(spec: ModelSpec, weights: dict[str, Floats], tokens: list[int]) -> Doubles:
    """Logits of every position [tokens, vocabulary], float64, without a cache."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    hidden = w["token_embd.weight"][tokens]
    for layer in range(spec.num_layers):
        prefix = f"blk.{layer}."
        normed = rms_norm(spec, hidden, w[prefix + "attn_norm.weight"])
        hidden = hidden + attention(spec, w, prefix, normed)
        normed = rms_norm(spec, hidden, w[prefix + "ffn_norm.weight"])
        gate, up = linear(w, prefix + "ffn_gate", normed), linear(w, prefix + "ffn_up", normed)
        hidden = hidden + linear(w, prefix + "ffn_down", gate / (1 + np.exp(-gate)) * up)
    final = rms_norm(spec, hidden, w["output_norm.weight"])
    output: Doubles = final @ w.get("output.weight", w["token_embd.weight"]).T
    return output


def rms_norm(spec: ModelSpec, x: Doubles, weight: Doubles) -> Doubles:
    normed: Doubles = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + spec.norm.epsilon) * weight
    return normed


def linear(w: dict[str, Doubles], name: str, x: Doubles) -> Doubles:
    return x @ w[name + ".weight"].T * w.get(name + ".scale", np.ones(1)) + w.get(name + ".bias", np.zeros(1))


def attention(spec: ModelSpec, w: dict[str, Doubles], prefix: str, x: Doubles) -> Doubles:
    num_heads, num_kv_heads = spec.attentions[0].num_heads, spec.attentions[0].num_kv_heads
    queries = rotated(spec, w, linear(w, prefix + "attn_q", x).reshape(len(x), num_heads, -1))
    keys = rotated(spec, w, linear(w, prefix + "attn_k", x).reshape(len(x), num_kv_heads, -1))
    values = linear(w, prefix + "attn_v", x).reshape(len(x), num_kv_heads, -1)
    heads = []
    for head in range(num_heads):
        kv_head = head * num_kv_heads // num_heads
        scores = queries[:, head] @ keys[:, kv_head].T / np.sqrt(spec.attentions[0].key_length)
        scores[np.triu_indices(len(x), 1)] = -np.inf  # no looking ahead
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        heads.append(probabilities @ values[:, kv_head])
    return linear(w, prefix + "attn_output", np.concatenate(heads, axis=1))


def rotated(spec: ModelSpec, w: dict[str, Doubles], x: Doubles) -> Doubles:
    """x [positions, heads, length]: pairs of neighbours as complex numbers, rotated (arXiv 2104.09864)."""
    rope = spec.ropes[0]
    frequencies = rope.base ** (-2 * np.arange(rope.dimension // 2) / rope.dimension)
    frequencies /= w.get("rope_freqs.weight", np.ones(1))
    angles = np.outer(np.arange(len(x)) * rope.scale, frequencies)[:, None, :]
    pairs = x[..., : rope.dimension].reshape(*x.shape[:2], -1, 2)
    rotated = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    result = x.copy()
    result[..., : rope.dimension] = np.stack((rotated.real, rotated.imag), -1).reshape(*x.shape[:2], -1)
    return result


ALL_Q8 = {
    f"{name}.weight": "Q8_0"
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes to the spec, to the file
    "plain": ({}, {}),
    "multi-head": ({"num_kv_heads": 4}, {}),
    "one KV head": ({"num_kv_heads": 1, "num_heads": 6}, {}),
    "rope factors": ({"rope": FACTORS}, {}),
    "linear rope scaling": ({"rope": {"scale": 0.25}}, {}),
    "rope of a part of the head": ({"key_length": 16, "rope": {"dimension": 6, "base": 500.0}}, {}),
    "other value length": ({"value_length": 20}, {}),
    "biases": ({}, {"biases": True}),
    "tied": ({}, {"tied": True}),
    "scales": ({}, {"scales": True}),
    "scales and biases": ({}, {"scales": True, "biases": True, "types": {"ffn_up.weight": "F16"}}),
    "half precision": ({}, {"types": dict.fromkeys(ALL_Q8, "F16") | {"token_embd.weight": "F16"}}),
    "gates and ups apart": ({}, {"types": {"ffn_up.weight": "F16", "attn_k.weight": "F16"}, "biases": True}),
    "quantised": ({}, {"types": ALL_Q8 | {"token_embd.weight": "Q4_0", "attn_v.weight": "Q4_0"}}),
    "odd sizes": ({"embedding_length": 44, "feed_forward_length": 37, "vocabulary_size": 49}, {}),
    "large epsilon": ({"norm_epsilon": 0.3, "num_layers": 3}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_dense_forward_pass(tmp_path: Path, case: str) -> None:
    changes, options = CASES[case]
    spec = make_spec(**changes)
    weights = write_llama(tmp_path / "model.gguf", spec, seed=len(case), **options)
    engine = LocalEngine(tmp_path / "model.gguf")
    assert engine.ranks[0].spec.ropes[0].scale == spec.ropes[0].scale
    expected = reference_logits(spec, weights, TOKENS)
    assert np.ptp(expected, axis=1).min() > 0.5
    found = all_logits(engine, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_feature_changes_the_logits(tmp_path: Path) -> None:
    """The reference cases mean something: leaving a feature out of the reference is seen."""
    spec = make_spec(rope={"scale": 0.25, **FACTORS})
    weights = write_llama(tmp_path / "model.gguf", spec, biases=True, scales=True)
    expected = reference_logits(spec, weights, TOKENS)
    biases_and_scales = (
        "blk.0.attn_q.bias",
        "blk.1.ffn_down.bias",
        "blk.0.attn_v.scale",
        "blk.1.ffn_up.scale",
    )
    for left_out in ("rope_freqs.weight", "output.weight", *biases_and_scales):
        fewer = {name: value for name, value in weights.items() if name != left_out}
        assert np.abs(reference_logits(spec, fewer, TOKENS) - expected).max() > 1e-3
    assert np.abs(reference_logits(make_spec(), weights, TOKENS) - expected).max() > 1e-3


def test_half_precision_cache_is_close(tmp_path: Path) -> None:
    import dataclasses

    weights = write_llama(tmp_path / "model.gguf", make_spec(), biases=True)
    limits = dataclasses.replace(LIMITS, kv_type="f16")
    found = all_logits(LocalEngine(tmp_path / "model.gguf", [1, 1], limits), TOKENS)
    error = np.abs(found - reference_logits(make_spec(), weights, TOKENS)).max()
    assert 1e-6 < error < 0.02
