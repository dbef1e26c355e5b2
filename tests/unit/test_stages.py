"""Cutting ranks and layers into stages: everything once and in order, in proportion, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples, make_spec, tensor_infos, tensor_shapes
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.split.plan import PlanError, Span, make_plan
from tplaunch.coordinator.split.stages import cut_layers, cut_ranks, given_layers, make_stages, placed
from tplaunch.launcher.config import RandomModel
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.staging import layer_costs, plan_for
from tplaunch.launcher.model import open_model

pytestmark = pytest.mark.unit


def assert_partition(spans: list[Span], total: int) -> None:
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == total and all(map(len, spans))


@given(
    st.lists(st.floats(0.5, 20), min_size=1, max_size=60), st.lists(st.floats(0.1, 9), min_size=1, max_size=6)
)
@examples(200)
def test_layers_are_cut_in_proportion(costs: list[float], weights: list[float]) -> None:
    """Within a layer of the exact cut, unless a stage would have none."""
    if len(costs) < len(weights):
        with pytest.raises(PlanError, match=f"{len(weights)} stages for {len(costs)} layers"):
            cut_layers(costs, weights)
        return
    spans = cut_layers(costs, weights)
    assert_partition(spans, len(costs))
    for stage in range(1, len(weights)):
        wanted = math.fsum(costs) * math.fsum(weights[:stage]) / math.fsum(weights)
        cut = spans[stage].start
        is_forced = any(len(span) == 1 for span in spans)
        assert is_forced or abs(math.fsum(costs[:cut]) - wanted) <= max(costs) + 1e-6


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 6))
@examples(100)
def test_ranks_are_cut_by_hosts_or_equally(steps: list[int], num_stages: int) -> None:
    hosts = [sum(steps[: rank + 1]) for rank in range(len(steps))]  # from 1 on where the head has no rank
    if num_stages > len(hosts):
        with pytest.raises(PlanError, match="each stage needs one at least"):
            cut_ranks(hosts, num_stages)
        return
    spans = cut_ranks(hosts, num_stages)
    assert_partition(spans, len(hosts))
    if len({*hosts}) == num_stages:
        assert all(len({hosts[rank] for rank in range(span.start, span.stop)}) == 1 for span in spans)
    else:
        assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_layers_that_are_given() -> None:
    assert given_layers((1, 3), 4) == [Span(0, 1), Span(1, 4)]
    for counts in ((2, 3), (0, 4), (5, -1), ()):
        with pytest.raises(PlanError, match="where the model has 4"):
            given_layers(counts, 4)
    with pytest.raises(PlanError, match="all rank weights are 0"):
        cut_layers([1.0, 1.0], [0.0, 0.0])


def test_each_stage_splits_its_own_layers() -> None:
    spec = make_spec(num_layers=5)
    stages = make_stages([Span(0, 2), Span(2, 3)], given_layers((3, 2), 5))
    plan = make_plan(spec, [1.0, 1.0, 1.0], stages=stages)
    assert [(share.rank, share.index, str(share.stage_layers)) for share in plan] == [
        (0, 0, "0..2"), (1, 1, "0..2"), (2, 0, "3..4")
    ]  # fmt: skip
    assert [str(share.vocabulary) for share in plan] == ["none", "none", "0..47"]
    assert [str(share.layers[0].heads) for share in plan] == ["0..1", "2..3", "0..3"]
    assert placed(plan, [0, 0, 1]).stages == (0, 0, 1)
    with pytest.raises(PlanError, match="all rank weights of a stage are 0"):
        make_plan(spec, [1.0, 1.0, 0.0], stages=stages)
    with pytest.raises(PlanError, match="9 ranks of a stage; from 1 to 8"):
        make_plan(spec, [1.0] * 10, stages=make_stages([Span(0, 9), Span(9, 10)], given_layers((3, 2), 5)))


def test_costs_are_what_a_row_reads() -> None:
    """All of a dense layer, of experts those it is routed to; and the last stage has the output, half."""
    spec = make_spec()
    tensors = tensor_infos(tensor_shapes(spec))
    first, last = layer_costs(spec, tensors)
    assert first == sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("blk.0."))
    assert last == first + tensors["output.weight"].nbytes / 2
    tied = tensor_infos(tensor_shapes(spec, tied=True))
    assert layer_costs(spec, tied) == [first, last]
    model = open_model(config_of(RandomModel("qwen3-30b-a3b", "Q4_0")))
    experts = model.spec.experts[0]
    assert isinstance(experts, ExpertsSpec)
    parts = {name: tensor.nbytes for name, tensor in model.tensors.items() if name.startswith("blk.0.")}
    of_experts = sum(nbytes for name, nbytes in parts.items() if "_exps." in name)
    expected = sum(parts.values()) - of_experts * (1 - experts.used / experts.count)
    assert layer_costs(model.spec, model.tensors)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "cut"),
    [
        ({"pipeline": 2}, "0..6 7..11"),
        ({"pipeline": 2, "tensor_split": (3.0, 1.0)}, "0..9 10..11"),
        ({"pipeline_split": (5, 7)}, "0..4 5..11"),
        ({"pipeline": 2, "pipeline_split": (5, 7)}, "0..4 5..11"),
        ({}, "0..11 0..11"),
    ],
)
def test_the_plan_that_options_ask_for(changes: dict[str, object], cut: str) -> None:
    config = config_of(RandomModel("llama-160m", "Q8_0"), devices="numpy,numpy", **changes)
    weights = config.rank_weights(2)
    assert weights is not None
    plan = plan_for(config, open_model(config), weights, [DeviceChoice(None, "numpy")] * 2)
    assert " ".join(str(share.stage_layers) for share in plan) == cut


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pipeline": 0}, "--pipeline 0: 1 to 64 stages"),
        ({"pipeline": 65}, "--pipeline 65: 1 to 64 stages"),
        ({"pipeline": 3, "pipeline_split": (1, 2)}, "--pipeline 3: --pipeline-split has 2 stages"),
    ],
)
def test_options_that_can_not_be(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        config_of(RandomModel("tiny", "Q8_0"), **changes)


def test_ranks_for_stages() -> None:
    config = config_of(RandomModel("tiny", "Q8_0"), pipeline=2)
    assert config.rank_weights(16) == (1.0,) * 16
    with pytest.raises(UsageError, match="17 ranks; 1 to 16 are possible"):
        config.rank_weights(17)
    with pytest.raises(UsageError, match="--pipeline 2: each stage needs a rank, but --devices names 1"):
        config.rank_weights(1)
