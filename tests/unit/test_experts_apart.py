"""Ranks of which some hold all experts, and the others all else: each does no work of the other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, LocalEngine, examples, make_spec, tensor_infos, tensor_shapes, write_llama
from tests.unit import test_reference_model as dense
from tests.unit.test_experts import CASES, WEIGHTS, experts_spec, held_columns, reference_logits
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.exchanges import num_all_reduces, shares_routing
from tplaunch.coordinator.split.model_shards import layer_norms, rank_shards
from tplaunch.coordinator.split.plan import PlanError, Span, Stage, make_plan
from tplaunch.worker.buffers.table import activation_buffers, cache_buffers, weight_buffers
from tplaunch.worker.ops.attention import Attention, RopeCache
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.experts import ExpertMatMul, ExpertSum, Route, SharedRoutes
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program

SPEC = experts_spec(shared=24)
OTHERS, EXPERTS = [2.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]  # weights of four ranks
PLAN = make_plan(SPEC, OTHERS, expert_weights=EXPERTS)
SHARDS = [rank_shards(SPEC, share, tensor_infos(tensor_shapes(SPEC))) for share in PLAN]


def program(rank: int, logit_rows: int = 1, shares_routing: bool = False) -> Program:
    options = ProgramOptions(shares_routing=shares_routing)
    return build_program(SPEC, PLAN[rank], SHARDS[rank], len(PLAN), 4, logit_rows, options)


@given(WEIGHTS, st.data(), st.sampled_from(["columns", "experts"]))
@examples(100)
def test_experts_follow_weights_of_their_own(weights: list[float], data: st.DataObject, split: str) -> None:
    """And all else is where it was without them."""
    size = len(weights)
    of_experts = data.draw(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=size, max_size=size))
    if not any(of_experts):
        with pytest.raises(PlanError, match="all rank weights for experts are 0"):
            make_plan(SPEC, weights, split, expert_weights=of_experts)
        return
    found = make_plan(SPEC, weights, split, expert_weights=of_experts)
    plain, experts = make_plan(SPEC, weights, split), make_plan(SPEC, of_experts, split)
    for share, one, other in zip(found, plain, experts, strict=True):
        assert (share.vocabulary, share.routers) == (one.vocabulary, other.routers)
        assert share.holds_experts == (share.index in share.routers) == bool(held_columns(share))
        for layer, of_one, of_other in zip(share.layers, one.layers, other.layers, strict=True):
            assert (layer.heads, layer.kv_heads) == (of_one.heads, of_one.kv_heads)
            assert layer.feed_forward == of_one.feed_forward
            assert (layer.experts, layer.expert_columns) == (of_other.experts, of_other.expert_columns)


def test_a_model_without_experts_needs_no_weights_for_them() -> None:
    spec = make_spec()
    assert make_plan(spec, [1, 0], expert_weights=[0, 0]) == make_plan(spec, [1, 0])


def test_each_stage_needs_a_rank_for_its_experts() -> None:
    stages = [Stage(Span(0, 2), Span(0, 1)), Stage(Span(2, 4), Span(1, 2))]
    found = make_plan(SPEC, [0, 1, 1, 0], stages=stages, expert_weights=[1, 0, 0, 1])
    assert [share.routers for share in found] == [(0,), (0,), (1,), (1,)]
    with pytest.raises(PlanError, match="all rank weights of a stage for experts are 0"):
        make_plan(SPEC, [1] * 4, stages=stages, expert_weights=[1, 1, 0, 0])


def test_a_rank_holds_no_bytes_of_what_it_has_no_part_in() -> None:
    """But for the norms of the residual stream, which every rank adds up."""
    norms = {f"blk.{index}.{name}.weight" for index in range(2) for name in layer_norms(SPEC)}
    norms |= {"output_norm.weight"}
    for share, shards in zip(PLAN, SHARDS, strict=True):
        weights = {name: buffer.nbytes for name, buffer in weight_buffers(shards).items()}
        routed = {name for name in weights if "_exps" in name or "ffn_gate_inp" in name}
        assert routed and norms < weights.keys()
        nothing = weights.keys() - routed - norms if share.holds_experts else routed
        assert {name for name, num_bytes in weights.items() if not num_bytes} == nothing
        keys = sum(buffer.nbytes for buffer in cache_buffers(SPEC, share, LIMITS).values())
        buffers = activation_buffers(SPEC, share, shards, LIMITS)
        assert bool(keys) == (not share.holds_experts)
        for name in ("qkv", "attended", "attention_sums", "activated_shexp", "logits"):
            assert bool(buffers[name].nbytes) == (not share.holds_experts)
        for name in ("router", "expert_activated", "expert_outputs", "expert_tiles"):
            assert bool(buffers[name].nbytes) == share.holds_experts


@pytest.mark.parametrize("logit_rows", [0, 1])
def test_a_rank_computes_nothing_that_it_has_no_part_in(logit_rows: int) -> None:
    """Nobody but ranks with experts routes rows, and these need no telling while their devices are alike."""
    for rank, share in enumerate(PLAN):
        made = program(rank, logit_rows)
        assert made.num_all_reduces == num_all_reduces(SPEC, len(PLAN), logit_rows > 0)
        ops = [op for segment in made.segments for op in segment.ops]
        of_experts = [op for op in ops if isinstance(op, Route | ExpertMatMul | ExpertSum)]
        products = {op.matrix.name for op in ops if isinstance(op, MatMul) and op.matrix.columns}
        assert bool(of_experts) == share.holds_experts
        assert any(isinstance(op, Attention | RopeCache) for op in ops) == (not share.holds_experts)
        assert any("ffn_gate_inp" in name for name in products) == share.holds_experts
        assert any("attn_" in name or name.startswith("output") for name in products) != share.holds_experts


def test_of_unequal_devices_with_experts_the_first_one_decides() -> None:
    """The others take part in its telling, but do not look at what it says."""
    assert not shares_routing(PLAN[0], ["card", "cpu", "another card", "cpu"])
    assert shares_routing(PLAN[0], ["card", "cpu", "card", "numpy"])
    for rank, share in enumerate(PLAN):
        made = program(rank, shares_routing=True)
        assert made.num_all_reduces == num_all_reduces(SPEC, len(PLAN), True, with_shared_routing=True)
        ops = [op for segment in made.segments for op in segment.ops]
        assert [op.decides for op in ops if isinstance(op, Route)] == [rank == 1] * 2
        assert sum(isinstance(op, SharedRoutes) for op in ops) == (2 if share.holds_experts else 0)


@pytest.mark.parametrize("case", CASES)
def test_they_compute_what_the_papers_say(tmp_path: Path, case: str) -> None:
    """Whichever rank comes first, and where one holds a part of both."""
    spec, options = CASES[case]
    weights = write_llama(tmp_path / "m.gguf", spec, seed=3, **options)
    expected = reference_logits(spec, weights, dense.TOKENS)
    for others, of_experts in (([1, 0], [0, 1]), ([0, 1], [1, 0]), (OTHERS, EXPERTS), ([1, 1, 0], [0, 1, 2])):
        for shared in (False, True):
            engine = LocalEngine(
                tmp_path / "m.gguf", others, shares_routing=shared, expert_weights=of_experts
            )
            found = all_logits(engine, dense.TOKENS)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
