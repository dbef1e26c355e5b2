"""Tests features of few files: sections and factors of ropes, norms of keys alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_attention_features import WINDOW, spec_of


@pytest.mark.parametrize(
    ("architecture", "sections", "interleaved"),
    [
        ("glm4", None, True),
        ("glm4", [8, 12, 12, 0], False),
        ("glm4", [8, 0, 0, 0], True),
        ("glm4moe", [8, 12, 12, 0], False),
        ("glm4moe", None, False),
        ("llama", [8, 12, 12, 0], True),
    ],
)
def test_files_of_models_that_see_pictures_may_turn_halves(
    architecture: str, sections: list[int] | None, interleaved: bool
) -> None:
    changes = {} if sections is None else {"rope.dimension_sections": sections}
    assert spec_of(architecture, 2, **changes).ropes[0].interleaved == interleaved


def test_norms_of_keys_alone_are_only_left_out_where_llama_cpp_does() -> None:
    keys = {"blk.0.attn_k_norm.weight": (16,)}
    assert "blk.0.attn_k_norm.weight" in spec_of("mpt", 1, keys).unused_tensors
    assert not spec_of("glm4moe", 1, keys).unused_tensors


@pytest.mark.parametrize(("architecture", "magnitude"), [("gemma3", 1.3), ("olmo2", 1.0), ("gemma2", 1.3)])
def test_magnitudes_of_layers_with_windows(architecture: str, magnitude: float) -> None:
    changes = {WINDOW: 512, "rope.scaling.attn_factor": 1.3, "rope.freq_base_swa": 5e3}
    spec = spec_of(architecture, 8, **changes)
    found = {(layer.window is None, spec.ropes[layer.rope or 0].magnitude) for layer in spec.attentions}
    assert found == {(True, 1.3), (False, magnitude)}


def test_as_many_elements_turn_in_all_layers_as_in_the_first() -> None:
    changes: dict[str, Any] = {
        "rope.dimension_count": 8,
        "rope.dimension_count_swa": 12,
        "rope.freq_base_swa": 5e3,
    }
    assert [rope.dimension for rope in spec_of("gemma2", 4, **changes).ropes] == [12, 12]
    changes["attention.sliding_window_pattern"] = [False, True, False, True]
    assert [rope.dimension for rope in spec_of("gemma2", 4, **changes).ropes] == [8, 8]


@pytest.mark.parametrize(
    ("architecture", "base"), [("gemma3", 5e3), ("gpt-oss", 5e3), ("olmo2", 1e4), ("cohere2", 1e4)]
)
def test_bases_of_layers_with_windows(architecture: str, base: float) -> None:
    """Some architectures' files have one that llama.cpp reads and does not use."""
    spec = spec_of(architecture, 4, **{WINDOW: 512, "rope.freq_base_swa": 5e3})
    assert spec.ropes[spec.attentions[0].rope or 0].base == base
