"""What few files of an architecture have: sections of ropes, norms of keys alone."""

from __future__ import annotations

import pytest

from tests.unit.test_attention_features import spec_of


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
