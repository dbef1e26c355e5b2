"""Which keys of a file count: those that llama.cpp reads for an architecture, with its defaults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import tensor_infos
from tests.unit.test_attention_features import spec_of
from tplaunch.coordinator.model.attention import Window
from tplaunch.coordinator.model.rope import Yarn
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import check_tensors

TYPE, FACTOR, OLD_FACTOR = "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"
ORIGINAL = "rope.scaling.original_context_length"
ROTATIONS = {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0}


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({FACTOR: 4.0}, 0.25),
        ({FACTOR: 0.0}, 1.0),
        ({OLD_FACTOR: 4.0}, 0.25),
        ({TYPE: "linear", OLD_FACTOR: 4.0}, 0.25),
        ({TYPE: "yarn", OLD_FACTOR: 4.0}, 0.25),
        ({TYPE: "longrope", FACTOR: 4.0}, 0.25),
        ({FACTOR: 2.0, OLD_FACTOR: 4.0}, 0.5),
        ({TYPE: "none", FACTOR: 4.0}, 1.0),
        ({TYPE: "none", OLD_FACTOR: 4.0}, 1.0),
    ],
)
def test_scale_of_a_rope(changes: dict[str, Any], scale: float) -> None:
    """Without a type it is linear."""
    assert spec_of("llama", 2, **changes).ropes[0].scale == scale


def test_no_original_context_is_that_of_the_model() -> None:
    yarn = {TYPE: "yarn", FACTOR: 4.0}
    assert spec_of("llama", 2, **yarn, **{ORIGINAL: 0}) == spec_of("llama", 2, **yarn)
    assert spec_of("llama", 2, **yarn).ropes[0].original_context == 131072


def test_only_some_architectures_are_told_how_yarn_scales() -> None:
    yarn = {TYPE: "yarn", FACTOR: 4.0, **ROTATIONS}
    multiplier = {"rope.scaling.yarn_log_multiplier": 0.5}
    assert spec_of("llama", 2, **yarn).ropes[0].yarn == Yarn(32.0, 1.0)
    assert spec_of("mistral3", 2, **yarn).ropes[0].yarn == Yarn(8.0, 2.0)
    for architecture, counts in (("llama", False), ("mistral3", True)):
        told, plain = (spec_of(architecture, 2, **yarn, **keys).ropes[0] for keys in (multiplier, {}))
        assert (told.magnitude < plain.magnitude) == counts
        assert told.magnitude > 1


@pytest.mark.parametrize("told", [None, True, False])
def test_parallel_parts(told: bool | None) -> None:
    """Converters write the key for stablelm, too, where the lack of a norm says it."""
    keys = {} if told is None else {"use_parallel_residual": told}
    norm = {"blk.0.ffn_norm.weight": (256,)}
    assert spec_of("gptneox", 2, norm, **keys).block.parallel == bool(told)
    assert not spec_of("stablelm", 2, norm, **keys).block.parallel
    block = spec_of("stablelm", 2, **keys).block
    assert block.parallel and not block.feed_forward_norm


def test_windows_of_exaone4_are_those_of_its_large_model() -> None:
    keys = {"attention.sliding_window": 512, "rope.freq_base_swa": 500.0}
    assert {attention.window for attention in spec_of("exaone4", 30, **keys).attentions} == {None}
    large = spec_of("exaone4", 64, **keys)
    assert large.attentions[0].window == Window(512)
    assert len(large.ropes) == 1, "all rotate alike"


@pytest.mark.parametrize("architecture", ["cohere2", "olmo2"])
def test_ropes_of_windows_that_are_as_all_others(architecture: str) -> None:
    keys = {"attention.sliding_window": 512, "rope.freq_base_swa": 500.0}
    assert len(spec_of(architecture, 4, **keys).ropes) == 1


@pytest.mark.parametrize("architecture", ["bloom", "llama"])
def test_limits_that_are_not_told(architecture: str) -> None:
    keys = {"attention.max_alibi_bias": 4.0, "attention.clamp_kqv": 6.0}
    assert spec_of(architecture, 2, **keys) == spec_of(architecture, 2)


@pytest.mark.parametrize(("architecture", "counts"), [("qwen2moe", False), ("dots1", True)])
def test_norms_of_experts_weights(architecture: str, counts: bool) -> None:
    shapes = {"blk.0.ffn_gate_inp.weight": (8, 256), "blk.0.ffn_down_exps.weight": (8, 256, 32)}
    keys = {"expert_count": 8, "expert_used_count": 2, "expert_weights_norm": True}
    assert spec_of(architecture, 1, shapes, **keys).experts[0].normalised == counts


def test_arrays_that_go_on_for_blocks_that_are_no_layers() -> None:
    keys: dict[str, Any] = {
        "nextn_predict_layers": 1,
        "feed_forward_length": [64, 32, 128],
        "attention.head_count": [8, 8, 4],
        "attention.head_count_kv": [2, 4, 4],
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False, True],
    }
    spec = spec_of("gemma3", 3, **keys)
    assert [part.length for part in spec.feed_forwards] == [64, 32]
    assert [attention.num_kv_heads for attention in spec.attentions] == [2, 4]
    assert [attention.window is not None for attention in spec.attentions] == [True, False]


def test_divisors_are_those_of_each_layer() -> None:
    spec = spec_of("mpt", 2, {"blk.1.ffn.act.scales": (64,)})
    assert [part.has_divisors for part in spec.feed_forwards] == [False, True]


@pytest.mark.parametrize("biases", [("attn_qkv",), ("attn_q", "attn_k", "attn_v"), ()])
def test_fused_matrices_with_biases_of_their_own(biases: tuple[str, ...]) -> None:
    """The fused matrix has biases of the whole, or of its parts."""
    rows = {"attn_qkv": 192, "attn_q": 128, "attn_k": 32, "attn_v": 32}
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (48, 256),
        "output_norm.weight": (256,),
        **{f"blk.0.{name}.weight": (256,) for name in ("attn_norm", "ffn_norm")},
        "blk.0.attn_qkv.weight": (192, 256),
        "blk.0.attn_output.weight": (256, 128),
        **{f"blk.0.{name}.weight": (64, 256) for name in ("ffn_gate", "ffn_up")},
        "blk.0.ffn_down.weight": (256, 64),
        **{f"blk.0.{name}.bias": (rows[name],) for name in biases},
    }
    spec: ModelSpec = spec_of("chatglm", 1, shapes)
    check_tensors(spec, tensor_infos(shapes))
