"""Real files leave keys out, write them otherwise or add some: the model stays the same, or is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import recurrent_models
from tests.models import Floats, LocalEngine, make_spec, open_model, write_llama
from tests.recurrent_models import LIMITS, RecurrentModel
from tests.unit.test_attention_features import spec_of
from tests.unit.test_experts import experts_spec
from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.rope import read_rope, still_pairs
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.worker.step.rope_tables import rope_angles

TOKENS = list(range(13))


def logits_of(path: Path, *weights: float) -> Floats:
    return all_logits(LocalEngine(path, weights or (1.0,), LIMITS), TOKENS)


def assert_same_model(tmp_path: Path, changed: RecurrentModel, plain: RecurrentModel) -> None:
    """Bit for bit, on one rank and on three."""
    changed_path, plain_path = changed.write(tmp_path / "changed.gguf"), plain.write(tmp_path / "plain.gguf")
    for weights in ((1.0,), (2.0, 1.0, 1.0)):
        np.testing.assert_array_equal(logits_of(changed_path, *weights), logits_of(plain_path, *weights))


def reshaped(model: RecurrentModel, leading_ones: int) -> RecurrentModel:
    """The same tensors with so many leading dimensions of 1."""
    tensors = {
        name: values.reshape((1,) * leading_ones + np.squeeze(values).shape)
        for name, values in model.tensors.items()
    }
    return dataclasses.replace(model, tensors=tensors)


@pytest.mark.parametrize("leading_ones", [0, 1])
@pytest.mark.parametrize("name", ["lfm2", "mamba2", "qwen35", "qwen3next"])
def test_leading_dimensions_of_1_say_nothing(tmp_path: Path, name: str, leading_ones: int) -> None:
    """As converters write the gate of shared experts: [1, columns]."""
    makers = {"lfm2": recurrent_models.lfm2, "mamba2": recurrent_models.mamba2}
    plain = makers[name]() if name in makers else recurrent_models.delta(name)
    assert_same_model(tmp_path, reshaped(plain, leading_ones), plain)


def changed_spec(path: Path, **changes: Any) -> Any:
    """Reads the spec of the file with other keys; None leaves a key out."""
    file = read_gguf(path)
    metadata = {**file.metadata, **{f"llama.{key}": value for key, value in changes.items()}}
    return model_spec({key: value for key, value in metadata.items() if value is not None}, file.tensors)


@pytest.mark.parametrize("length", [None, 0])
def test_where_all_layers_have_experts_no_other_length_is_needed(tmp_path: Path, length: int | None) -> None:
    """Qwen3.5's mixtures say none."""
    write_llama(tmp_path / "m.gguf", experts_spec(shared=24))
    assert changed_spec(tmp_path / "m.gguf", feed_forward_length=length) == changed_spec(tmp_path / "m.gguf")


@pytest.mark.parametrize(("length", "sentence"), [(None, "no llama.feed_forward_length"), (0, "length is 0")])
def test_a_layer_without_experts_needs_a_length(tmp_path: Path, length: int | None, sentence: str) -> None:
    mixture, path = experts_spec(), tmp_path / "m.gguf"
    mixed = dataclasses.replace(mixture, layers=(mixture.layers[0], make_spec().layers[0]))
    write_llama(path, mixed)
    with pytest.raises(ModelError, match=sentence):
        changed_spec(path, feed_forward_length=length)


def renamed(model: RecurrentModel, metadata: Mapping[str, Any]) -> RecurrentModel:
    return dataclasses.replace(model, metadata={**model.metadata, **metadata})


def test_models_that_see_later_tokens_are_refused(tmp_path: Path) -> None:
    """As those that only embed texts; what is said of others says nothing."""
    plain = recurrent_models.lfm2()
    assert_same_model(tmp_path, renamed(plain, {"attention.causal": 1}), plain)
    with pytest.raises(ModelError, match=r"lfm2.attention.causal is False; true \(for generating text\)"):
        open_model(renamed(plain, {"attention.causal": 0}).write(tmp_path / "m.gguf"))


def test_layers_of_lfm2_turn_alike_with_windows() -> None:
    """A base for layers with windows is none that llama.cpp reads for it."""
    keys: dict[str, Any] = {
        "attention.head_count_kv": [0, 2],
        "shortconv.l_cache": 3,
        "attention.sliding_window": 8,
    }
    assert len(spec_of("lfm2", 2, **keys, **{"rope.freq_base_swa": 500.0}).ropes) == 1


def test_what_embeds_texts_is_left_out(tmp_path: Path) -> None:
    """LFM2-ColBERT's last product."""
    plain = recurrent_models.lfm2()
    dense = {"dense_2.weight": np.ones((8, 32), np.float32), "dense_2.bias": np.ones(8, np.float32)}
    assert_same_model(tmp_path, dataclasses.replace(plain, tensors={**plain.tensors, **dense}), plain)


def test_tied_embeddings_may_have_a_bias_behind_them(tmp_path: Path) -> None:
    """Qwen2's may."""
    plain = recurrent_models.mamba2()
    tensors = {**plain.tensors, "output.bias": np.linspace(-1, 1, 48, dtype=np.float32)}
    untied = dataclasses.replace(plain, tensors={**tensors, "output.weight": tensors["token_embd.weight"]})
    del tensors["output.weight"]
    assert_same_model(tmp_path, dataclasses.replace(plain, tensors=tensors), untied)


def test_alpha_raises_the_base_of_the_rope() -> None:
    """The slowest of 4 pairs rotates 1000 times slower, the first as before (NTK-aware scaling)."""
    plain, changed = (
        rope_angles(read_rope(MetadataReader(keys, "hunyuan-dense"), 8, False, {}), None)
        for keys in ({}, {"hunyuan-dense.rope.scaling.alpha": 1000.0})
    )
    np.testing.assert_allclose(plain / changed, 1000.0 ** (np.arange(4) / 3))


@pytest.mark.parametrize(
    "keys", [{"rope.scaling.alpha": 1000.0}, {"expert_weights_norm": True}, {"expert_gating_func": 2}]
)
def test_keys_of_other_architectures_say_nothing(keys: dict[str, Any]) -> None:
    """llama.cpp does not read them for Qwen2's mixtures."""
    shapes = {"blk.0.ffn_gate_inp.weight": (8, 256), "blk.0.ffn_down_exps.weight": (8, 256, 64)}
    experts = {"expert_count": 8, "expert_used_count": 2}
    assert spec_of("qwen2moe", 1, shapes, **experts, **keys) == spec_of("qwen2moe", 1, shapes, **experts)


@pytest.mark.parametrize(
    ("sections", "still"),
    [
        ([11, 11, 10, 0], ()),  # Qwen3.5's
        (None, ()),
        ([0, 0, 0, 0], ()),
        ([32, 0, 0, 0], tuple(pair for pair in range(32) if pair % 3)),
        ([1, 1, 1, 1], tuple(range(3, 32, 4))),
        ([16, 16, 0, 0], tuple(range(2, 32, 3))),
    ],
)
def test_pairs_of_no_section_do_not_rotate(sections: list[int] | None, still: tuple[int, ...]) -> None:
    """Time, height and width take turns, as long as they have pairs; the rest is of a fourth position, 0."""
    keys = {} if sections is None else {"qwen35.rope.dimension_sections": sections}
    assert still_pairs(MetadataReader(keys, "qwen35"), 32) == still
    turned = rope_angles(RopeSpec(64, 1e4, 1.0, False, still_pairs=still), None) > 0
    assert np.flatnonzero(~turned).tolist() == list(still)


def test_impossible_sections_are_refused() -> None:
    with pytest.raises(ModelError, match=r"dimension_sections is -1; a number from 0 to"):
        still_pairs(MetadataReader({"qwen35.rope.dimension_sections": [-1, 3, 3, 3]}, "qwen35"), 8)


def test_a_dense_model_may_count_one_expert(tmp_path: Path) -> None:
    """Hunyuan's do."""
    plain = recurrent_models.lfm2()
    counted = renamed(plain, {"expert_count": 1, "expert_used_count": 1})
    assert_same_model(tmp_path, counted, plain)
