"""Mixtures of experts: who holds which, what is loaded, and that ranks compute what the papers say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import (
    LIMITS,
    Floats,
    LocalEngine,
    examples,
    make_spec,
    open_model,
    tensor_infos,
    tensor_shapes,
    write_llama,
)
from tests.unit import test_reference_model as dense
from tplaunch.coordinator.architectures.experts import feed_forward_parts
from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.architectures.table import ARCHITECTURES
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.spec import FeedForwardSpec, LayerSpec, ModelSpec
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.model_shards import check_tensors, rank_shards
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, RankShare, Span, make_plan
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.table import activation_buffers
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.common import QUANTIZED, QUANTIZED_PAIRS, MatMul, Quantize
from tplaunch.worker.ops.experts import GROUPED, ExpertMatMul, ExpertTiles, Route, SharedRoutes
from tplaunch.worker.ops.quantized import row_words
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.vulkan.variants import INTEGERS
from tplaunch.worker.weights.model_file import ModelFile, shard_rows

WEIGHTS = st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0, 7.0]), min_size=1, max_size=8).filter(any)
SPLITS = pytest.mark.parametrize("split", EXPERT_SPLITS)


def experts_spec(shared: int = 0, **changes: Any) -> ModelSpec:
    """Two layers of experts, of which `shared` columns are for all rows."""
    dimensions: dict[str, Any] = {"count": 6, "used": 2, "length": 40, "normalised": True, **changes}
    spec = make_spec()
    together = FeedForwardSpec(shared, suffix="_shexp") if shared else None
    layer = LayerSpec(spec.attentions[0], together, experts=ExpertsSpec(**dimensions))
    return dataclasses.replace(spec, layers=(layer,) * 2)


def held_columns(share: RankShare) -> set[tuple[int, int]]:
    """Every expert's columns that a rank holds, by expert and column."""
    layer = share.layers[0]
    experts, columns = layer.experts, layer.expert_columns
    return {(e, c) for e in range(experts.start, experts.stop) for c in range(columns.start, columns.stop)}


@given(st.integers(1, 20), st.integers(1, 90), WEIGHTS, st.sampled_from(EXPERT_SPLITS))
@examples(150)
def test_every_column_of_every_expert_is_held_once(
    count: int, length: int, weights: list[float], split: str
) -> None:
    plan = make_plan(experts_spec(count=count, used=1, length=length), weights, split)
    held = [column for share in plan for column in held_columns(share)]
    assert sorted(held) == [(expert, column) for expert in range(count) for column in range(length)]
    for share, weight in zip(plan, weights, strict=True):
        assert weight or not held_columns(share)


def test_768_columns_on_five_ranks() -> None:
    plan = make_plan(SHAPES["qwen3-30b-a3b"].spec, [1] * 5)
    assert [len(share.layers[0].expert_columns) for share in plan] == [154, 153, 154, 153, 154]
    assert {share.layers[0].experts for share in plan} == {Span(0, 128)}
    whole = make_plan(SHAPES["qwen3-30b-a3b"].spec, [1] * 5, "experts")
    assert [len(share.layers[0].experts) for share in whole] == [26, 25, 26, 25, 26]
    assert {share.layers[0].expert_columns for share in whole} == {Span(0, 768)}


@SPLITS
def test_ranks_load_their_parts_of_every_expert(tmp_path: Path, split: str) -> None:
    spec = experts_spec(length=96)
    types = dict.fromkeys(("ffn_down_exps.weight", "ffn_up_exps.weight", "ffn_gate_exps.weight"), "Q8_0")
    weights = write_llama(tmp_path / "m.gguf", spec, types)
    file, _ = open_model(tmp_path / "m.gguf")
    source = ModelFile(file.origin.parts)
    gate, up, down = (weights[f"blk.1.ffn_{kind}_exps.weight"] for kind in ("gate", "up", "down"))
    for share in make_plan(spec, [1, 2, 1], split):
        layer = share.layers[1]
        shards = rank_shards(spec, share, file.tensors)
        experts = slice(layer.experts.start, layer.experts.stop)
        columns = slice(layer.expert_columns.start, layer.expert_columns.stop)
        for name, whole in (("gate", gate), ("up", up)):
            shard = shards[f"blk.1.ffn_{name}_exps.weight"]
            found = widened(source, shard, file.tensors)
            np.testing.assert_array_equal(found, whole[experts, columns])
            assert shard.num_rows == found.shape[0] * found.shape[1]
        shard = shards["blk.1.ffn_down_exps.weight"]
        own = slice(shard.column_offset, shard.column_offset + len(layer.expert_columns))
        found = widened(source, shard, file.tensors)[..., own]
        np.testing.assert_array_equal(found, down[experts, :, columns])


def widened(source: ModelFile, shard: Shard, tensors: Mapping[str, TensorInfo]) -> Floats:
    """A shard's weights [experts, rows, columns]."""
    parts = shard_rows(source, shard, tensors[shard.tensor])
    columns = len(shard.columns)
    return np.stack([FORMATS[shard.type].widen(np.ascontiguousarray(part), columns) for part in parts])


def reference_logits(spec: ModelSpec, weights: dict[str, Floats], tokens: list[int]) -> dense.Doubles:
    """As the dense one, with experts (arXiv 2401.04088): the likeliest by the router, weighted."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    hidden = w["token_embd.weight"][tokens]
    for layer in range(spec.num_layers):
        prefix = f"blk.{layer}."
        normed = dense.rms_norm(spec, hidden, w[prefix + "attn_norm.weight"])
        hidden = hidden + dense.attention(spec, w, prefix, normed)
        normed = dense.rms_norm(spec, hidden, w[prefix + "ffn_norm.weight"])
        hidden = hidden + np.stack([mixture(spec, w, prefix, row) for row in normed])
    final = dense.rms_norm(spec, hidden, w["output_norm.weight"])
    output: dense.Doubles = final @ w["output.weight"].T
    return output


def mixture(spec: ModelSpec, w: dict[str, dense.Doubles], prefix: str, row: dense.Doubles) -> dense.Doubles:
    logits = dense.linear(w, prefix + "ffn_gate_inp", row)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    chosen = np.argsort(-probabilities)[: spec.experts[0].used]
    result = np.zeros_like(row)
    for expert in chosen:
        gate, up = (through(w, f"{prefix}ffn_{kind}_exps", expert, row) for kind in ("gate", "up"))
        output = through(w, f"{prefix}ffn_down_exps", expert, gate / (1 + np.exp(-gate)) * up)
        result += output * probabilities[expert] / probabilities[chosen].sum()
    if prefix + "ffn_up_shexp.weight" in w:
        gate, up = (dense.linear(w, f"{prefix}ffn_{kind}_shexp", row) for kind in ("gate", "up"))
        result += dense.linear(w, prefix + "ffn_down_shexp", gate / (1 + np.exp(-gate)) * up)
    return result


def through(w: dict[str, dense.Doubles], name: str, expert: int, row: dense.Doubles) -> dense.Doubles:
    output: dense.Doubles = w[name + ".weight"][expert] @ row * w.get(name + ".scale", np.ones(99))[expert]
    return output + w[name + ".bias"][expert] if name + ".bias" in w else output


CASES: dict[str, tuple[ModelSpec, dict[str, Any]]] = {  # the spec, and options of the file
    "plain": (experts_spec(), {}),
    "shared": (experts_spec(shared=24), {}),
    "biases": (experts_spec(shared=24), {"biases": True}),
    "scales": (experts_spec(shared=24), {"scales": True, "biases": True}),
    "scales of experts apart": (experts_spec(), {"scales": True, "types": {"ffn_gate_exps.weight": "F16"}}),
    "all experts": (experts_spec(used=6), {}),
    "one expert": (experts_spec(count=1, used=1), {}),
    "apart": (experts_spec(), {"types": {"ffn_up_exps.weight": "F16"}, "biases": True}),
    "quantised": (
        experts_spec(length=96),
        {"types": dict.fromkeys((f"ffn_{k}_exps.weight" for k in ("gate", "up", "down")), "Q4_0")},
    ),
}


@SPLITS
@pytest.mark.parametrize("case", CASES)
def test_ranks_compute_what_the_papers_say(tmp_path: Path, case: str, split: str) -> None:
    spec, options = CASES[case]
    weights = write_llama(tmp_path / "m.gguf", spec, seed=3, **options)
    expected = reference_logits(spec, weights, dense.TOKENS)
    assert np.ptp(expected, axis=1).min() > 0.5
    for ranks in ([1.0], [1.0, 1.0, 1.0], [0.0, 3.0, 1.0, 0.2, 5.0]):
        for shares_routing in (False, True):
            options = {"expert_split": split, "shares_routing": shares_routing}
            engine = LocalEngine(tmp_path / "m.gguf", ranks, **options)
            found = all_logits(engine, dense.TOKENS)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def program(
    spec: ModelSpec, rank: int, rows: int, types: Mapping[str, str] | None = None, **options: Any
) -> Program:
    share = make_plan(spec, [1.0] * 3)[rank]
    shards = rank_shards(spec, share, tensor_infos(tensor_shapes(spec), types or {}))
    return build_program(spec, share, shards, 3, rows, 1, ProgramOptions(**options))


def test_experts_cost_no_all_reduce_of_their_own_where_devices_are_alike() -> None:
    for rank in range(3):
        assert program(experts_spec(shared=8), rank, 4).num_all_reduces == 2 * 2


def test_of_unequal_devices_the_first_one_decides() -> None:
    spec = experts_spec()
    for rank in range(3):
        shared = program(spec, rank, 4, shares_routing=True)
        assert shared.num_all_reduces == 3 * 2
        lengths = [segment.row_length for segment in shared.segments[:-1]]
        assert lengths == [0, 4, 0] * 2  # 0: a row of the residual stream
        ops = [op for segment in shared.segments for op in segment.ops]
        assert [op.decides for op in ops if isinstance(op, Route)] == [rank == 0] * 2
        routers = [op for op in ops if isinstance(op, MatMul) and "ffn_gate_inp" in op.matrix.name]
        assert len(routers) == (2 if rank == 0 else 0)
        assert sum(isinstance(op, SharedRoutes) for op in ops) == 2


def test_rows_are_grouped_where_experts_get_several() -> None:
    for rows, is_grouped in ((1, False), (4, False), (8, True)):
        ops = [op for segment in program(experts_spec(), 0, rows).segments for op in segment.ops]
        products = [op for op in ops if isinstance(op, ExpertMatMul)]
        assert [op.tiled for op in products] == [is_grouped] * 4
        assert any(isinstance(op, ExpertTiles) for op in ops) == is_grouped


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize(
    ("weight_type", "of_prompts", "kind"),
    [("Q8_0", True, "f16"), ("Q8_0", False, "f32"), ("BF16", True, "f32"), ("IQ4_NL", True, "f32")],
)
def test_experts_of_prompts_multiply_float16_however_many_rows_there_are(
    rows: int, weight_type: str, of_prompts: bool, kind: str
) -> None:
    """So they do where there are tiles for them and float16 holds the weights; others stay with floats."""
    spec = experts_spec(length=96)
    types = {f"ffn_{name}_exps.weight": weight_type for name in ("gate", "up", "down")}
    made = program(spec, 1, rows, types, activations="f16", of_prompts=of_prompts)
    ops = [op for segment in made.segments for op in segment.ops]
    inputs = {
        (op.by_pair, op.input, op.activations, op.of_prompts) for op in ops if isinstance(op, ExpertMatMul)
    }
    quantizes = [op for op in ops if isinstance(op, Quantize)]
    if kind == "f32":
        assert {(by_pair, name) for by_pair, name, *_ in inputs} == {
            (False, "normed"),
            (True, "expert_activated"),
        }
        assert {activations for _, _, activations, _ in inputs} == {"f32"} and not quantizes
    else:
        assert inputs == {(False, QUANTIZED, "f16", True), (True, QUANTIZED_PAIRS, "f16", True)}
        assert [(op.input, op.columns, op.used, op.output) for op in quantizes] == [
            ("normed", 32, 0, QUANTIZED),
            ("expert_activated", 32, 2, QUANTIZED_PAIRS),
        ] * 2
    limits = dataclasses.replace(LIMITS, activations="f16")
    share = make_plan(spec, [1.0] * 3)[1]
    shards = rank_shards(spec, share, tensor_infos(tensor_shapes(spec), types))
    buffers = activation_buffers(spec, share, shards, limits)
    for op in quantizes:
        assert buffers[op.output].row_length >= row_words(op.columns, "f16")
        assert buffers[op.output].nbytes >= 4 * buffers[op.output].row_length * limits.max_rows * max(
            op.used, 1
        )


def test_all_weights_that_have_integers_have_tiles_of_prompts() -> None:
    """Which arithmetic prompts get is chosen by trials of these."""
    assert set(INTEGERS) <= set(GROUPED)


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("of_prompts", [False, True])
@pytest.mark.parametrize("as_floats", [(), ("Q5_0",)])
def test_experts_multiply_integers_where_their_weights_have_some(
    rows: int, of_prompts: bool, as_floats: tuple[str, ...]
) -> None:
    """So do prompts' rows and generated ones, unless floats are quicker with their type of weights."""
    spec = experts_spec(length=96)
    types = {"ffn_gate_exps.weight": "Q5_0", "ffn_up_exps.weight": "Q5_0", "ffn_down_exps.weight": "IQ4_NL"}
    made = program(spec, 1, rows, types, activations="q8", of_prompts=of_prompts, as_floats=as_floats)
    ops = [op for segment in made.segments for op in segment.ops]
    products = {(op.by_pair, op.input, op.activations) for op in ops if isinstance(op, ExpertMatMul)}
    rounded = ("normed", "f32") if as_floats else (QUANTIZED, "q8")
    assert products == {(False, *rounded), (True, "expert_activated", "f32")}
    down = {**types, "ffn_down_exps.weight": "Q8_0"}
    made = program(spec, 1, rows, down, activations="q8", of_prompts=of_prompts)
    (quantize,) = {
        op for segment in made.segments for op in segment.ops if isinstance(op, Quantize) and op.used
    }
    assert (quantize.input, quantize.output) == ("expert_activated", QUANTIZED_PAIRS)
    limits = dataclasses.replace(LIMITS, activations="q8")
    share = make_plan(spec, [1.0] * 3)[1]
    shards = rank_shards(spec, share, tensor_infos(tensor_shapes(spec), down))
    buffer = activation_buffers(spec, share, shards, limits)[QUANTIZED_PAIRS]
    assert buffer.row_length >= row_words(quantize.columns, "q8")
    assert buffer.nbytes >= 4 * buffer.row_length * limits.max_rows * quantize.used


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"expert_used_count": 0}, "the model uses 0 of 6 experts; from 1 to 64 of up to 512 are supported"),
        ({"expert_used_count": 7}, "a row can't go to 7 of 6 experts in 1 of 1 groups"),
        ({"expert_used_count": None}, "metadata has no llama.expert_used_count"),
        ({"expert_group_count": 4}, "the model uses 1 of 4 groups of 6 experts; up to 32 groups"),
        (
            {"expert_group_count": 3, "expert_used_count": 3},
            "a row can't go to 3 of 6 experts in 1 of 3 groups",
        ),
        ({"expert_count": 513}, "the model uses 2 of 513 experts"),
        ({"expert_count": 7}, r"'blk.0.ffn_gate_inp.weight' has the shape \[6, 32\], expected \[7, 32\]"),
        ({"expert_count": 40, "expert_used_count": 20}, "a row of 32 elements can't go to 20 experts"),
    ],
)
def test_experts_that_cant_be(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    write_llama(tmp_path / "m.gguf", experts_spec())
    file = read_gguf(tmp_path / "m.gguf")
    metadata = {**file.metadata, **{f"llama.{key}": value for key, value in changes.items()}}
    with pytest.raises(ModelError, match=sentence):
        check_tensors(model_spec(metadata, file.tensors), file.tensors)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"expert_weights_scale": float("nan")}, "expert_weights_scale is nan; a positive number"),
        ({"expert_gating_func": 9}, "expert_gating_func is 9; one of 1, 2, 3 is needed"),
    ],
)
def test_weights_that_cant_be(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """Refused where the architecture reads them; a llama does not."""
    write_llama(tmp_path / "m.gguf", experts_spec())
    file = read_gguf(tmp_path / "m.gguf")
    metadata = {**file.metadata, **{f"llama.{key}": value for key, value in changes.items()}}
    assert model_spec(metadata, file.tensors) == model_spec(file.metadata, file.tensors)
    renamed = {key.replace("llama.", "dots1."): value for key, value in metadata.items()}
    with pytest.raises(ModelError, match=sentence):
        model_spec({**renamed, "general.architecture": "dots1"}, file.tensors)


@pytest.mark.parametrize(
    ("layers", "tokens", "key", "expected"),
    [(47, 154880, {}, "sigmoid"), (47, 154881, {}, "softmax"), (46, 154880, {}, "softmax"),
     (47, 154880, {"expert_gating_func": 1}, "softmax")],
)  # fmt: skip
def test_early_files_of_glm_flash_do_not_name_their_gating(
    layers: int, tokens: int, key: dict[str, int], expected: str
) -> None:
    keys = {
        "expert_count": 4,
        "expert_used_count": 2,
        "embedding_length": 64,
        "feed_forward_length": 32,
        **key,
    }
    read = MetadataReader({f"deepseek2.{name}": value for name, value in keys.items()}, "deepseek2")
    shapes = {"token_embd": (tokens, 64), "blk.0.ffn_gate_inp": (4, 64), "blk.0.ffn_down_exps": (4, 64, 32)}
    tensors = tensor_infos({f"{name}.weight": shape for name, shape in shapes.items()})
    features = ARCHITECTURES["deepseek2"].experts
    parts = feed_forward_parts(features, read, layers, lambda _, length: FeedForwardSpec(length), tensors)
    assert parts[0][1] is not None and parts[0][1].gating == expected


def test_layers_that_only_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    """As in GLM-4.5: the last block is of no use for the next token."""
    write_llama(tmp_path / "m.gguf", make_spec(num_layers=3))
    file = read_gguf(tmp_path / "m.gguf")
    metadata = {**file.metadata, "llama.nextn_predict_layers": 1}
    spec = model_spec(metadata, file.tensors)
    check_tensors(spec, file.tensors)
    assert spec.num_layers == 2
    assert {name.split(".")[1] for name in spec.unused_tensors} == {"2"}
    length = metadata["llama.feed_forward_length"]
    of_blocks = {
        **metadata,
        "llama.feed_forward_length": [length, length, 8],
    }  # the last one's is left out, too
    assert model_spec(of_blocks, file.tensors).layers == spec.layers
    for wrong in (3, -1):
        with pytest.raises(ModelError, match=f"nextn_predict_layers is {wrong}; a number from 0 to 2 is"):
            model_spec({**metadata, "llama.nextn_predict_layers": wrong}, file.tensors)
