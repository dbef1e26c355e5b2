"""The plan: every piece held exactly once, in proportion; shards of whole blocks; what is refused and how."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import FACTORS, LIMITS, examples, make_spec, tensor_infos, tensor_shapes
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import check_tensors, rank_shards
from tplaunch.coordinator.split.plan import COLUMN_TILE, PlanError, Span, make_plan, split
from tplaunch.coordinator.split.shards import Shard

WEIGHTS = (
    st.lists(
        st.one_of(st.just(0.0), st.integers(1, 5).map(float), st.floats(0.01, 100)), min_size=1, max_size=8
    )
    .filter(any)
)  # fmt: skip
COLUMNS = st.one_of(st.integers(1, 3000), st.sampled_from([7, 31, 127, 768, 1601, 8191, 11008, 14336, 53248]))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    num_kv_heads, group = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    return make_spec(
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * group,
        key_length=draw(st.sampled_from([8, 12, 64])),
        value_length=draw(st.sampled_from([4, 8, 12, 20])),
        feed_forward_length=draw(COLUMNS),
        vocabulary_size=draw(st.integers(1, 40000)),
        num_layers=draw(st.integers(1, 2)),
    )


def assert_partition(spans: list[Span], total: int) -> None:
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == total


def assert_proportional(spans: list[Span], total: int, weights: list[float], unit: int) -> None:
    for span, weight in zip(spans, weights, strict=True):
        assert abs(len(span) - total * weight / math.fsum(weights)) <= unit * (1 + 1e-9)
        assert weight or not len(span)


@given(COLUMNS | st.integers(0, 3), WEIGHTS, st.sampled_from([1, 2, 3, 32, 256]))
@examples(400)
def test_spans_cover_everything_once_within_a_unit_of_the_exact_share(
    total: int, weights: list[float], unit: int
) -> None:
    spans = split(total, weights, unit)
    assert_partition(spans, total)
    assert_proportional(spans, total, weights, unit)
    assert all(span.start % unit == 0 or span.start == total for span in spans)


@given(specs(), WEIGHTS)
@examples(300)
def test_every_rank_has_its_share_of_the_model(spec: ModelSpec, weights: list[float]) -> None:
    plan = make_plan(spec, weights)
    assert [share.rank for share in plan] == list(range(len(weights)))
    group = spec.attentions[0].heads_per_kv_head
    head_unit = group if spec.attentions[0].num_kv_heads >= len(weights) else 1
    for spans, total, unit in (
        ([share.layers[0].heads for share in plan], spec.attentions[0].num_heads, head_unit),
        ([share.layers[0].feed_forward for share in plan], spec.feed_forwards[0].length, 256),
        ([share.vocabulary for share in plan], spec.vocabulary_size, 1),
    ):
        assert_partition(spans, total)
        assert_proportional(spans, total, weights, unit)
    for share in plan:
        needed = {head // group for head in range(share.layers[0].heads.start, share.layers[0].heads.stop)}
        assert set(range(share.layers[0].kv_heads.start, share.layers[0].kv_heads.stop)) == needed


@given(COLUMNS, WEIGHTS)
@examples(200)
def test_no_rank_is_far_from_its_share_of_columns(columns: int, weights: list[float]) -> None:
    """Cutting at whole blocks must not make a rank slow: it is off by 2 % of an equal share or a column."""
    spec = make_spec(feed_forward_length=columns)
    for share, weight in zip(make_plan(spec, weights), weights, strict=True):
        exact = columns * weight / math.fsum(weights)
        assert (
            abs(len(share.layers[0].feed_forward) - exact) <= max(1.0, 0.02 * columns / len(weights)) + 1e-6
        )


def test_fewer_kv_heads_than_ranks_are_replicated() -> None:
    plan = make_plan(make_spec(num_heads=8, num_kv_heads=2), [1] * 4)
    assert [str(share.layers[0].heads) for share in plan] == ["0..1", "2..3", "4..5", "6..7"]
    assert [str(share.layers[0].kv_heads) for share in plan] == ["0..0", "0..0", "1..1", "1..1"]


def test_more_ranks_than_heads_leave_some_without() -> None:
    plan = make_plan(make_spec(num_heads=2, num_kv_heads=1, feed_forward_length=5), [1] * 8)
    assert sum(len(share.layers[0].heads) for share in plan) == 2
    assert [str(share.layers[0].kv_heads) for share in plan if not len(share.layers[0].heads)] == ["none"] * 6
    assert [len(share.layers[0].feed_forward) for share in plan].count(0) == 3


KINDS = (
    "token_embd.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight",
    "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight", "output.weight",
)  # fmt: skip


@st.composite
def typed_tables(draw: st.DrawFn) -> tuple[ModelSpec, dict[str, TensorInfo]]:
    """A spec and its tensors, each of a type that its columns allow; layers differ."""
    spec = draw(specs())
    shapes = tensor_shapes(spec, biases=draw(st.booleans()), tied=draw(st.booleans()))
    infos = tensor_infos(shapes)
    for name, shape in shapes.items():
        if len(shape) == 2:
            fitting = [kind for kind, weight in WEIGHT_TYPES.items() if not shape[1] % weight.block_columns]
            kind = draw(st.sampled_from(fitting))
            infos[name] = tensor_infos({"output.weight": shape}, {"output.weight": kind})["output.weight"]
            infos[name] = TensorInfo(name, kind, shape, 0, infos[name].nbytes)
    return spec, infos


@given(typed_tables(), WEIGHTS)
@examples(200)
def test_shards_are_whole_blocks_around_the_own_columns(
    table: tuple[ModelSpec, dict[str, TensorInfo]], weights: list[float]
) -> None:
    spec, tensors = table
    check_tensors(spec, tensors)
    for share in make_plan(spec, weights):
        shards = rank_shards(spec, share, tensors)
        own_columns = {
            "attn_output.weight": share.layers[0].heads.scaled(spec.attentions[0].value_length),
            "ffn_down.weight": share.layers[0].feed_forward,
        }
        for name, shard in shards.items():
            tensor = tensors[shard.tensor]
            assert shard.type == tensor.type
            assert shard.padded_columns % COLUMN_TILE == 0
            assert 0 <= shard.padded_columns - len(shard.columns) < COLUMN_TILE
            block = WEIGHT_TYPES[shard.type].block_columns
            assert shard.columns.start % block == 0
            assert shard.columns.stop % block == 0 or shard.columns.stop == tensor.columns
            own = own_columns.get(name.split(".", 2)[-1])
            if own is None:
                assert shard.column_offset == 0
            elif len(own):
                assert shard.rows == Span(0, tensor.shape[0])
                assert shard.columns.start + shard.column_offset == own.start
                assert shard.columns.start <= own.start < own.stop <= shard.columns.stop <= tensor.columns
            else:
                assert len(shard.columns) == 0
        assert one_offset_a_kind(shards)


def one_offset_a_kind(shards: Mapping[str, Shard]) -> bool:
    """All layers of a kind read one activation buffer, so their own columns must lie at the same place."""
    kinds = itertools.groupby(
        sorted(shards, key=lambda name: name.split(".", 2)[-1]), key=lambda name: name.split(".", 2)[-1]
    )
    return all(len({shards[name].column_offset for name in names}) == 1 for _, names in kinds)


@given(typed_tables(), WEIGHTS)
@examples(50)
def test_column_parallel_rows_and_biases_are_the_ranks_own(
    table: tuple[ModelSpec, dict[str, TensorInfo]], weights: list[float]
) -> None:
    spec, tensors = table
    plan = make_plan(spec, weights)
    all_shards = [rank_shards(spec, share, tensors) for share in plan]
    for name in ("blk.0.attn_q", "blk.0.ffn_gate", "blk.0.ffn_up", "output"):
        rows = [shards[name + ".weight"].rows for shards in all_shards]
        source = all_shards[0][name + ".weight"].tensor
        assert_partition(rows, tensors[source].shape[0])
        if name + ".bias" in tensors:
            assert [shards[name + ".bias"].columns for shards in all_shards] == rows
    for share, shards in zip(plan, all_shards, strict=True):
        assert shards["blk.0.attn_k.weight"].rows == share.layers[0].kv_heads.scaled(
            spec.attentions[0].key_length
        )
        assert shards["blk.0.attn_v.weight"].rows == share.layers[0].kv_heads.scaled(
            spec.attentions[0].value_length
        )
        bias_here = "blk.0.attn_output.bias" in tensors and share.rank == 0
        assert ("blk.0.attn_output.bias" in shards) == ("blk.0.ffn_down.bias" in shards) == bias_here


def test_a_tied_output_is_cut_from_the_embedding() -> None:
    spec = make_spec()
    tensors = tensor_infos(tensor_shapes(spec, tied=True))
    assert rank_shards(spec, make_plan(spec, [1])[0], tensors)["output.weight"].tensor == "token_embd.weight"


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([], "0 ranks; from 1 to 8 are possible"),
        ([1.0] * 9, "9 ranks; from 1 to 8 are possible"),
        ([1.0, math.nan], "a rank weight of nan; "),
        ([1.0, -0.5], "a rank weight of -0.5; "),
        ([math.inf], "a rank weight of inf; "),
        ([1e308, 1e308], "a rank weight of 1e\\+308; "),
        ([0.0, 0.0], "all rank weights are 0; at least one must be more"),
    ],
)
def test_impossible_weights_are_refused(weights: list[float], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        make_plan(make_spec(), weights)


def test_tiny_weights_count_like_others() -> None:
    assert make_plan(make_spec(), [1e-300, 3e-300]) == make_plan(make_spec(), [1, 3])


def test_limits_are_positive_and_the_kv_type_is_known() -> None:
    for name in ("context_length", "block_length", "max_rows", "max_logit_rows", "max_sequences"):
        for value in (0, -1, 2**31):
            wrong: dict[str, Any] = {name: value}
            with pytest.raises(PlanError, match=f"{name} is {value}; it must be positive"):
                dataclasses.replace(LIMITS, **wrong)
    with pytest.raises(PlanError, match="the KV type 'q8' is unknown; known: f16, f32"):
        dataclasses.replace(LIMITS, kv_type="q8")


REQUIRED = [name for name in tensor_shapes(make_spec(num_layers=1)) if name != "output.weight"]


@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "token_embd.weight"])
def test_a_missing_tensor_is_named(name: str) -> None:
    spec = make_spec(num_layers=1)
    tensors = tensor_infos(tensor_shapes(spec))
    del tensors[name]
    with pytest.raises(ModelError, match=f"the model has no tensor '{name}'"):
        check_tensors(spec, tensors)


ALL_TENSORS = sorted(tensor_shapes(make_spec(num_layers=1, rope=FACTORS), biases=True))


@pytest.mark.parametrize("name", ALL_TENSORS)
@pytest.mark.parametrize("wrong", [(3,), (3, 32), (2, 3, 4)])
def test_a_wrong_shape_is_named(name: str, wrong: tuple[int, ...]) -> None:
    spec = make_spec(num_layers=1, rope=FACTORS)
    shapes = tensor_shapes(spec, biases=True)
    expected = list(shapes[name])
    shapes[name] = wrong
    with pytest.raises(ModelError) as caught:
        check_tensors(spec, tensor_infos(shapes))
    assert str(caught.value) == f"the tensor '{name}' has the shape {list(wrong)}, expected {expected}"


def test_tensors_that_nothing_reads_are_refused() -> None:
    spec = make_spec()
    unknown = {"blk.0.attn_q_norm.weight": (8,), "a.weight": (4, 32)}
    with pytest.raises(ModelError, match=r"2 tensors of the file are not known for llama, the first is 'a\."):
        check_tensors(spec, tensor_infos(tensor_shapes(spec) | unknown))
    with pytest.raises(
        ModelError, match=r"1 tensors of the file are not known for llama, the first is 'blk\.2"
    ):
        check_tensors(spec, tensor_infos(tensor_shapes(spec) | {"blk.2.attn_norm.weight": (32,)}))


def test_a_vector_must_be_of_floats() -> None:
    spec = make_spec()
    check_tensors(spec, tensor_infos(tensor_shapes(spec), {"attn_norm.weight": "F16"}))
    tensors = tensor_infos(tensor_shapes(spec), {"attn_norm.weight": "Q8_0"})
    with pytest.raises(
        ModelError, match=r"the vector 'blk\.0\.attn_norm\.weight' is of type Q8_0; one of F32"
    ):
        check_tensors(spec, tensors)
