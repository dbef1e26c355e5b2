"""Whole models of any shape, split in any way, compute what one rank alone does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import (
    WRITABLE_TYPES,
    LocalEngine,
    examples,
    kind_of,
    make_spec,
    open_model,
    tensor_shapes,
    write_llama,
)
from tplaunch.coordinator.model.spec import FeedForwardSpec, ModelSpec
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import make_plan

TOKENS = [1, 5, 47, 0, 9, 9, 23]
# Equal, uneven, and none at all: for a rank with weight 0 the others do everything.
RANK_WEIGHTS = st.lists(
    st.sampled_from([0.0, 1.0, 2.0, 7.0]) | st.floats(0.01, 9), min_size=1, max_size=8
).filter(any)


@dataclass(frozen=True)
class Case:
    """A model, and how it is split."""

    spec: ModelSpec
    types: dict[str, str]
    biases: bool
    scales: bool
    tied: bool
    weights: list[float]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Every matrix of any type whose blocks its columns fill."""
    num_kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    spec = make_spec(
        num_layers=draw(st.integers(1, 2)),
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * group,
        key_length=draw(st.sampled_from([8, 12])),
        value_length=draw(st.sampled_from([4, 8, 16, 20, 32])),
        feed_forward_length=draw(st.integers(1, 90) | st.integers(1, 5).map(lambda blocks: 32 * blocks)),
    )
    biases, scales, tied = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    types = {}
    for name, shape in tensor_shapes(spec, tied=tied).items():
        if len(shape) == 2 and kind_of(name) not in types:
            fitting = [kind for kind, each in WRITABLE_TYPES.items() if not shape[1] % each.block_columns]
            types[kind_of(name)] = draw(st.sampled_from(sorted(fitting)), kind_of(name))
    return Case(spec, types, biases, scales, tied, draw(RANK_WEIGHTS))


@given(cases())
@examples(40)
def test_ranks_together_compute_what_one_alone_does(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    path = tmp_path_factory.mktemp("split") / "m.gguf"
    write_llama(path, case.spec, case.types, biases=case.biases, scales=case.scales, tied=case.tied)
    expected = all_logits(LocalEngine(path), TOKENS)
    found = all_logits(LocalEngine(path, case.weights), TOKENS)
    assert np.ptp(expected, axis=1).min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-5)


@given(cases())
@examples(40)
def test_every_row_and_column_is_held_and_added_once(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    """Several ranks may hold a row, around a cut inside a block or of a KV head, but only one uses it."""
    path = tmp_path_factory.mktemp("split") / "m.gguf"
    write_llama(path, case.spec, case.types, biases=case.biases, scales=case.scales, tied=case.tied)
    file, spec = open_model(path)
    plan = make_plan(spec, case.weights)
    used = {"attn_output": np.zeros(spec.attentions[0].num_heads * spec.attentions[0].value_length, int)}
    used |= {name: np.zeros(spec.feed_forwards[0].length, int) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    used |= {"attn_q": np.zeros(spec.attentions[0].num_heads * spec.attentions[0].key_length, int)}
    held = {name: np.zeros(spec.attentions[0].num_kv_heads, int) for name in ("attn_k", "attn_v")}
    tokens = np.zeros(spec.vocabulary_size, int)
    for share in plan:
        shards = {
            name.removeprefix("blk.0."): shard
            for name, shard in rank_shards(spec, share, file.tensors).items()
        }
        own = {
            "attn_output": len(share.layers[0].heads) * spec.attentions[0].value_length,
            "ffn_down": len(share.layers[0].feed_forward),
        }
        for name, count in own.items():
            shard = shards[f"{name}.weight"]
            start = shard.columns.start + shard.column_offset
            assert not count or start + count <= shard.columns.stop
            used[name][start : start + count] += 1
        for name in ("attn_q", "ffn_gate", "ffn_up"):
            rows = shards[f"{name}.weight"].rows
            used[name][rows.start : rows.stop] += 1
        for name, length in (
            ("attn_k", spec.attentions[0].key_length),
            ("attn_v", spec.attentions[0].value_length),
        ):
            rows = shards[f"{name}.weight"].rows
            held[name][rows.start // length : rows.stop // length] += 1
        tokens[shards["output.weight"].rows.start : shards["output.weight"].rows.stop] += 1
    assert all((counts == 1).all() for counts in used.values())
    assert all((counts >= 1).all() for counts in held.values())
    assert (tokens == 1).all()


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_layers_of_unequal_lengths(tmp_path: Path, num_ranks: int) -> None:
    """A cut inside a block meets no other layer's activations: each length has a buffer of its own."""
    layers = [
        dataclasses.replace(make_spec().layers[0], feed_forward=FeedForwardSpec(n)) for n in (96, 64, 96)
    ]
    spec = dataclasses.replace(make_spec(), layers=tuple(layers))
    types = {f"{name}.weight": "Q8_0" for name in ("ffn_gate", "ffn_up", "ffn_down")}
    write_llama(tmp_path / "m.gguf", spec, types)
    tokens = [1, 5, 40, 7, 3, 9]
    whole, split = LocalEngine(tmp_path / "m.gguf"), LocalEngine(tmp_path / "m.gguf", [1.0] * num_ranks)
    expected, found = (all_logits(engine, tokens) for engine in (whole, split))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
