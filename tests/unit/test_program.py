"""Programs as data: where the all-reduces are, and that every buffer is written before it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, examples, make_spec, tensor_infos, tensor_shapes
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.exchanges import num_all_reduces
from tplaunch.coordinator.split.limits import ACTIVATIONS, AUTO, Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare, make_plan, padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.buffers.table import Buffer, Placement, activation_buffers, cache_buffers, weight_buffers
from tplaunch.worker.ops.attention import Attention, AttentionCombine, RopeCache
from tplaunch.worker.ops.common import (
    QUANTIZED,
    Activate,
    MatMul,
    Op,
    Quantize,
    SumNorm,
    SumSlice,
)
from tplaunch.worker.ops.quantized import row_words
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Phase, Program
from tplaunch.worker.programs.transformer import build_program

INPUTS = frozenset(("embedding", "rope", "step"))  # what the step writer fills
WEIGHTS = st.lists(st.sampled_from([0.0, 0.2, 1.0, 3.0]), min_size=1, max_size=8).filter(any)


@dataclasses.dataclass(frozen=True)
class RankCase:
    """One rank of a model."""

    spec: ModelSpec
    share: RankShare
    shards: Mapping[str, Shard]
    num_ranks: int
    activations: str = "f32"

    def program(
        self,
        rows: int = 4,
        logit_rows: int = 2,
        of_prompts: bool = False,
        *,
        two_phase: bool = False,
        in_one_part: bool = False,
        as_floats: tuple[str, ...] = (),
    ) -> Program:
        options = ProgramOptions(
            activations=self.activations,
            two_phase=two_phase,
            of_prompts=of_prompts,
            in_one_part=in_one_part,
            as_floats=as_floats,
        )
        return build_program(self.spec, self.share, self.shards, self.num_ranks, rows, logit_rows, options)


def ranks_of(
    spec: ModelSpec,
    weights: list[float],
    biases: bool = False,
    kind: str = "F32",
    unlike: frozenset[str] = frozenset(),
) -> list[RankCase]:
    """kind: of the row-parallel matrices; unlike: tensors that are F16 instead of F32."""
    types = {"attn_output.weight": kind, "ffn_down.weight": kind, **dict.fromkeys(unlike, "F16")}
    tensors = tensor_infos(tensor_shapes(spec, biases=biases), types)
    plan = make_plan(spec, weights)
    return [RankCase(spec, share, rank_shards(spec, share, tensors), len(plan)) for share in plan]


@st.composite
def rank_cases(draw: st.DrawFn) -> RankCase:
    num_kv_heads = draw(st.integers(1, 4))
    spec = make_spec(
        num_layers=draw(st.integers(1, 4)),
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * draw(st.sampled_from([1, 2, 3])),
        value_length=draw(st.sampled_from([4, 32])),
        feed_forward_length=draw(st.integers(1, 100)),
        vocabulary_size=draw(st.integers(1, 60)),
    )
    blocks = spec.attentions[0].value_length == 32 and spec.feed_forwards[0].length % 32 == 0
    kind = draw(st.sampled_from(["F32", "Q8_0"] if blocks else ["F32", "F16"]))
    unlike = draw(st.frozensets(st.sampled_from(("attn_q.weight", "attn_v.weight", "ffn_up.weight"))))
    case = draw(st.sampled_from(ranks_of(spec, draw(WEIGHTS), draw(st.booleans()), kind, unlike)))
    return dataclasses.replace(
        case, activations=draw(st.sampled_from([kind for kind in ACTIVATIONS if kind != AUTO]))
    )


def ops_of(program: Program) -> list[Op]:
    return [op for segment in program.segments for op in segment.ops]


@given(rank_cases(), st.sampled_from([0, 1, 16]))
@examples(150)
def test_two_all_reduces_a_layer(case: RankCase, logit_rows: int) -> None:
    program = case.program(16, logit_rows)
    assert (program.rows, program.logit_rows) == (16, logit_rows)
    num_layers = case.spec.num_layers if logit_rows else case.spec.num_layers - 1
    assert program.num_all_reduces == (0 if case.num_ranks == 1 else 2 * num_layers)
    assert program.num_all_reduces == num_all_reduces(case.spec, case.num_ranks, logit_rows > 0)
    assert program.num_all_reduces % 2 == 0  # the next step's first parity is not this one's last
    assert len(program.segments) == program.num_all_reduces + 1
    assert program.segments[-1].parity is None
    assert [segment.parity for segment in program.segments[:-1]] == [0, 1] * (program.num_all_reduces // 2)


@given(rank_cases(), st.sampled_from([0, 2]))
@examples(100)
def test_two_phases_only_cut_the_sums_in_two(case: RankCase, logit_rows: int) -> None:
    one_shot, two_phase = case.program(4, logit_rows), case.program(4, logit_rows, two_phase=True)
    assert two_phase.num_all_reduces == one_shot.num_all_reduces
    assert len(two_phase.segments) == 1 + 2 * one_shot.num_all_reduces
    if case.num_ranks == 1:
        assert two_phase == one_shot
        return
    for i, segment in enumerate(one_shot.segments[:-1]):
        partials, slices = two_phase.segments[2 * i : 2 * i + 2]
        assert (partials.phase, slices.phase) == (Phase.PARTIALS, Phase.SLICES)
        assert partials.parity == slices.parity == segment.parity
        assert slices.ops == (SumSlice(i % 2, case.share.rank),)
    ops = [op for op in ops_of(two_phase) if not isinstance(op, SumSlice)]
    unsummed = [dataclasses.replace(op, summed=False) if isinstance(op, SumNorm) else op for op in ops]
    assert unsummed == ops_of(one_shot)
    assert all(op.summed == (op.parity is not None) for op in ops if isinstance(op, SumNorm))


@given(rank_cases(), st.sampled_from([0, 2]))
@examples(100)
def test_partial_sums_of_a_parity_are_added_once_before_they_are_overwritten(
    case: RankCase, logit_rows: int
) -> None:
    written: list[int] = []
    for op in ops_of(case.program(4, logit_rows)):
        if isinstance(op, MatMul) and op.parity is not None:
            assert op.output == "partials"
            assert not written
            written.append(op.parity)
        elif isinstance(op, SumNorm) and op.parity is not None:
            assert written == [op.parity]
            written.clear()
    assert not written


@given(rank_cases())
@examples(100)
def test_a_segment_ends_with_its_partial_sums(case: RankCase) -> None:
    for segment in case.program().segments[:-1]:
        last = segment.ops[-1]
        assert isinstance(last, MatMul)
        assert last.parity == segment.parity
        assert sum(isinstance(op, MatMul) and op.parity is not None for op in segment.ops) == 1


@given(rank_cases())
@examples(100)
def test_without_logits_a_step_ends_with_the_last_layers_cache(case: RankCase) -> None:
    ops = ops_of(case.program(4, 0))
    last = case.spec.num_layers - 1
    if len(case.share.layers[0].heads):
        assert isinstance(ops[-1], RopeCache)
        assert ops[-1].key_cache == f"cache.{last}.key"
        assert sum(isinstance(op, Attention) for op in ops) == last
    else:
        assert isinstance(ops[-1], SumNorm)
    with_logits = ops_of(case.program(4, 1))
    assert ops == with_logits[: len(ops)]  # up to there it is the same program


@given(rank_cases(), st.sampled_from([0, 2]))
@examples(150)
def test_every_buffer_is_written_before_it_is_read(case: RankCase, logit_rows: int) -> None:
    """A rank without heads or columns reads zeros instead: no one writes its activations, ever."""
    has_own = {
        "attended": len(case.share.layers[0].heads),
        "activated": len(case.share.layers[0].feed_forward),
    }
    written = set(INPUTS)
    for op in ops_of(case.program(4, logit_rows)):
        never_written = {name for name, count in has_own.items() if not count}
        assert op.reads - never_written <= written, op
        written |= op.writes
    if logit_rows:
        assert ("logits" in written) == bool(len(case.share.vocabulary))


def limits_of(rows: int) -> Limits:
    return dataclasses.replace(LIMITS, max_rows=rows, max_logit_rows=min(4, rows))


@given(rank_cases(), st.sampled_from([1, 4, 16]))
@examples(150)
def test_every_buffer_exists_and_is_wide_enough(case: RankCase, rows: int) -> None:
    limits = dataclasses.replace(limits_of(rows), activations=case.activations)
    activations = activation_buffers(case.spec, case.share, case.shards, limits)
    caches = cache_buffers(case.spec, case.share, limits)
    weights = weight_buffers(case.shards)
    assert not set(activations) & set(caches) | set(activations) & set(weights) | set(caches) & set(weights)
    buffers: dict[str, Buffer] = {**activations, **caches, **weights}
    slot = Buffer(0, row_length=padded(case.spec.embedding_length))
    for op in ops_of(case.program(rows, limits.max_logit_rows)):
        for name in (op.reads | op.writes) - {"partials"}:
            assert name in buffers
        if isinstance(op, MatMul):
            columns, is_float = op.matrix.columns, op.activations == "f32"
            assert (op.input == QUANTIZED) != is_float
            words = columns if is_float else row_words(columns, op.activations)
            assert buffers[op.input].row_length >= words
            output = slot if op.output == "partials" else buffers[op.output]
            assert output.row_length >= op.output_offset + op.columns
            assert op.matrix.columns % 32 == 0
            assert op.matrix.name in weights
            if op.bias is not None:
                assert weights[op.bias].nbytes >= 4 * op.matrix.rows
        elif isinstance(op, Quantize):
            assert buffers[op.input].row_length >= op.columns
            assert buffers[QUANTIZED].row_length >= row_words(op.columns, op.activations)
        elif isinstance(op, SumNorm):
            names = (op.reads | op.writes) - {"partials"}
            assert min(buffers[name].row_length for name in names) >= op.width
            assert op.weight is not None and weights[op.weight].nbytes >= 4 * op.width
        elif isinstance(op, AttentionCombine):
            assert buffers["attended"].row_length >= op.output_offset + op.num_heads * op.value_length
        elif isinstance(op, Activate):
            assert buffers["gate_up"].row_length == 2 * op.columns
            assert buffers["activated"].row_length >= op.output_offset + op.columns
        elif isinstance(op, RopeCache):
            keys, values = op.num_kv_heads * op.key_length, op.num_kv_heads * op.value_length
            assert buffers["query"].row_length == op.heads.num_heads * op.key_length
            assert buffers["qkv"].row_length == buffers["query"].row_length + keys + values
            positions = limits.num_blocks * limits.block_length * op.num_kv_heads * 4
            assert buffers[op.key_cache].nbytes == positions * op.key_length
            assert buffers[op.value_cache].nbytes == positions * op.value_length
            assert buffers["rope"].row_length >= op.rotation.dimension


@given(rank_cases())
@examples(50)
def test_rows_of_one_part_are_finished_at_once(case: RankCase) -> None:
    """With eight operations a layer where the products allow it."""
    expected: list[Op] = []
    for op in ops_of(case.program()):
        if isinstance(op, AttentionCombine):
            attention = expected[-1]
            assert isinstance(attention, Attention)
            expected[-1] = dataclasses.replace(attention, finish=op)
            assert op.writes <= expected[-1].writes
        else:
            expected.append(op)
    assert ops_of(case.program(in_one_part=True)) == expected


@given(rank_cases())
@examples(50)
def test_attention_reads_only_kv_heads_that_are_there(case: RankCase) -> None:
    spec, share = case.spec, case.share.layers[0]
    for op in ops_of(case.program()):
        if isinstance(op, Attention):
            for head in range(op.num_heads):
                held = (op.first_head + head) // op.heads_per_kv_head
                assert held < op.num_kv_heads
                read = (share.heads.start + head) // spec.attentions[0].heads_per_kv_head
                assert share.kv_heads.start + held == read


@pytest.mark.parametrize(
    ("unlike", "products"),
    [
        ((), ["attn_q+attn_k+attn_v", "ffn_gate+ffn_up"]),
        (("attn_v.weight",), ["attn_q+attn_k", "attn_v", "ffn_gate+ffn_up"]),
        (("attn_q.weight", "ffn_up.weight"), ["attn_q", "attn_k+attn_v", "ffn_gate", "ffn_up"]),
        (("attn_k.weight",), ["attn_q", "attn_k", "attn_v", "ffn_gate+ffn_up"]),
    ],
)
@pytest.mark.parametrize("biases", [False, True])
def test_matrices_of_one_layout_take_one_product(
    unlike: tuple[str, ...], products: list[str], biases: bool
) -> None:
    (case,) = ranks_of(make_spec(num_layers=1), [1], biases, unlike=frozenset(unlike))
    matmuls = [op for op in ops_of(case.program()) if isinstance(op, MatMul)]
    column_parallel = [op for op in matmuls if op.input == "normed"]
    assert [op.matrix.name for op in column_parallel] == [f"blk.0.{name}.weight" for name in products]
    assert all((op.bias is not None) == biases for op in column_parallel)
    assert [op.gated for op in column_parallel] == [
        "ffn_gate+ffn_up" in op.matrix.name for op in column_parallel
    ]


def test_products_of_one_input_share_its_integers() -> None:
    spec = make_spec(num_layers=2, feed_forward_length=64)
    types = {"attn_q.weight": "Q8_0", "attn_k.weight": "Q4_0", "ffn_down.weight": "Q8_0"}
    tensors = tensor_infos(tensor_shapes(spec), types)
    (share,) = make_plan(spec, [1])
    case = RankCase(spec, share, rank_shards(spec, share, tensors), 1, "q8")
    ops = ops_of(case.program())
    assert [(op.input, op.columns) for op in ops if isinstance(op, Quantize)] == [
        ("normed", 32),
        ("activated", 64),
    ] * 2
    inputs = [(op.matrix.type, op.input) for op in ops if isinstance(op, MatMul)]
    assert all((name == QUANTIZED) == (kind in types.values()) for kind, name in inputs)
    assert [name for _, name in inputs].count(QUANTIZED) == 2 * len(types)


@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize(("of_prompts", "kinds"), [(False, {"f32"}), (True, {"f16"})])
def test_rows_of_prompts_multiply_float16_however_many_they_are(
    rows: int, of_prompts: bool, kinds: set[str]
) -> None:
    """Logits stay with floats, and so do weights in float32 and what was generated."""
    tensors = tensor_infos(
        tensor_shapes(spec := make_spec()), {"ffn_up.weight": "F16", "output.weight": "F16"}
    )
    (share,) = make_plan(spec, [1])
    case = RankCase(spec, share, rank_shards(spec, share, tensors), 1, "f16")
    matmuls = [op for op in ops_of(case.program(rows, 1, of_prompts)) if isinstance(op, MatMul)]
    ups = [op for op in matmuls if op.matrix.name.endswith("ffn_up.weight")]
    assert {op.activations for op in ups} == kinds
    assert {op.activations for op in matmuls if op not in ups} == {"f32"}


def test_every_activation_holds_all_rows() -> None:
    case = ranks_of(make_spec(), [1, 2])[1]
    buffers = activation_buffers(case.spec, case.share, case.shards, LIMITS)
    for name, buffer in buffers.items():
        if buffer.row_length:
            rows = LIMITS.max_logit_rows if name in ("final", "logits") else LIMITS.max_rows
            assert buffer.nbytes == rows * buffer.row_length * 4
    uploads = {name for name, buffer in buffers.items() if buffer.placement is Placement.UPLOAD}
    assert uploads == INPUTS
    assert [name for name in buffers if buffers[name].placement is Placement.READBACK] == ["logits"]
    assert buffers["step"].nbytes == 4 * StepLayout(LIMITS).num_words


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({"num_heads": 2, "num_kv_heads": 2}, {RopeCache, Attention, AttentionCombine}),
        ({"feed_forward_length": 2}, {Activate}),
        ({"vocabulary_size": 2}, set()),
    ],
)
def test_ranks_that_hold_nothing_still_take_part(changes: dict[str, int], without: set[type]) -> None:
    idle = 0
    for case in ranks_of(make_spec(**{"num_heads": 8, "num_kv_heads": 8, **changes}), [1] * 8):
        program = case.program()
        assert program.num_all_reduces == 2 * case.spec.num_layers
        kinds = {type(op) for op in ops_of(program)}
        if (
            not len(case.share.layers[0].heads)
            or not len(case.share.layers[0].feed_forward)
            or not len(case.share.vocabulary)
        ):
            idle += 1
            assert not kinds & without
            partials = [op for op in ops_of(program) if isinstance(op, MatMul) and op.parity is not None]
            assert len(partials) == 2 * case.spec.num_layers
            assert any(op.matrix.columns == 0 for op in partials) == bool(without)
            assert any(op.output == "logits" for op in ops_of(program) if isinstance(op, MatMul)) == bool(
                len(case.share.vocabulary)
            )
    assert idle == 6


def test_only_rank_0_adds_the_biases_of_row_parallel_products() -> None:
    for case in ranks_of(make_spec(), [1, 1, 1], biases=True):
        for op in ops_of(case.program()):
            if isinstance(op, MatMul) and op.parity is not None:
                assert (op.bias is not None) == (case.share.rank == 0)
            elif isinstance(op, MatMul) and op.matrix.name != "output.weight":
                assert op.bias is not None
