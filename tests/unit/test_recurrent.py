"""Models with recurrent layers: every split and layout computes the same; sequences stay apart."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import recurrent_models
from tests.models import LocalEngine, examples, make_spec, open_model
from tests.recurrent_models import LIMITS, RecurrentModel
from tests.steps import Rows, step_of
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.exchanges import num_all_reduces
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import PlanError, Span, make_plan
from tplaunch.launcher.fitting.fit import RankNeeds
from tplaunch.worker.buffers.state import state_buffers

Floats = npt.NDArray[np.float32]
MODELS: dict[str, Callable[[], RecurrentModel]] = {
    "lfm2": recurrent_models.lfm2,
    "mamba2": recurrent_models.mamba2,
    "qwen35": lambda: recurrent_models.delta("qwen35"),
    "qwen3next": lambda: recurrent_models.delta("qwen3next"),
}
TOKENS = np.random.default_rng(3).integers(0, recurrent_models.VOCABULARY, 29).tolist()


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param]().write(tmp_path_factory.mktemp("model") / "model.gguf")


def logits_of(path: Path, weights: Sequence[float] = (1,), limits: Limits = LIMITS, **options: Any) -> Floats:
    engine = LocalEngine(path, weights, limits, **options)
    return all_logits(engine, TOKENS)


def assert_same(logits: Floats, expected: Floats) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("two_phase", [False, True])
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (3, 0, 1, 2), (1,) * 5, (1,) * 8])
def test_every_split_gives_the_same(path: Path, weights: tuple[float, ...], two_phase: bool) -> None:
    assert_same(logits_of(path, weights, two_phase=two_phase), logits_of(path))


@pytest.mark.parametrize("name", ["lfm2", "mamba2", "qwen35"])
def test_splits_inside_blocks_give_the_same(name: str, tmp_path: Path) -> None:
    """The columns of the output projection are cut anywhere."""
    kinds = ("shortconv.out_proj", "shortconv.in_proj", "ssm_out", "ssm_in", "attn_qkv", "attn_gate")
    file = MODELS[name]().write(tmp_path / "model.gguf", {f"{kind}.weight": "Q8_0" for kind in kinds})
    assert_same(logits_of(file, (1, 2, 2)), logits_of(file))


@pytest.mark.parametrize("max_rows", [1, 7, 16])
def test_chunks_give_the_same(path: Path, max_rows: int) -> None:
    limits = dataclasses.replace(LIMITS, max_rows=max_rows, max_logit_rows=max_rows)
    whole = dataclasses.replace(LIMITS, max_rows=32, max_logit_rows=32)
    assert_same(logits_of(path, (1, 1), limits), logits_of(path, (1,), whole))


def test_sequences_side_by_side_do_not_disturb_each_other(path: Path) -> None:
    """More of them than slots, of all lengths: slots are used again, and most steps have no logits."""
    limits = dataclasses.replace(LIMITS, max_rows=5, max_logit_rows=5)
    requests = Requests(LocalEngine(path, (1, 2), limits))
    lengths = [9, 1, 14, 3, 20, 2, 6]
    prompts = [[(7 * i + start) % 48 for i in range(length)] for start, length in enumerate(lengths)]
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    made = [requests.add(prompt, params) for prompt in prompts]
    while len(requests):
        requests.step()
    for request, prompt in zip(made, prompts, strict=True):
        row = all_logits(LocalEngine(path, (1,), LIMITS), prompt)[-1].astype(np.float64)
        expected = row - np.log(np.exp(row).sum())
        (picked,) = request.outputs[0].logprobs
        for token, logprob in picked.top:
            assert logprob == pytest.approx(expected[token], abs=1e-4)


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (1,) * 7])
def test_layouts_of_the_same_model_give_the_same(tmp_path: Path, weights: tuple[float, ...]) -> None:
    plain = recurrent_models.delta("qwen3next")
    expected = logits_of(plain.write(tmp_path / "plain.gguf"))
    layouts = {
        "turns": recurrent_models.in_turns(plain),
        "betas": recurrent_models.group_by_group(plain, also_convolved=False),
        "older": recurrent_models.group_by_group(plain, also_convolved=True),
    }
    for name, model in layouts.items():
        assert_same(logits_of(model.write(tmp_path / f"{name}.gguf"), weights), expected)


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1)])
@pytest.mark.parametrize("rows", [("ssm_a",), ("ssm_d",), ("ssm_a", "ssm_d")])
def test_a_number_a_head_is_a_column_or_a_row(
    tmp_path: Path, rows: tuple[str, ...], weights: tuple[float, ...]
) -> None:
    """In mamba2's files both are columns."""
    plain = recurrent_models.mamba2()
    assert plain.tensors["blk.0.ssm_a"].shape == plain.tensors["blk.0.ssm_d"].shape == (6, 1)
    tensors = {
        name: values.reshape(-1) if name.endswith(rows) else values for name, values in plain.tensors.items()
    }
    changed = dataclasses.replace(plain, tensors=tensors)
    expected = logits_of(plain.write(tmp_path / "plain.gguf"))
    assert_same(logits_of(changed.write(tmp_path / "changed.gguf"), weights), expected)


def test_blocks_that_predict_further_ahead_are_left_out(tmp_path: Path) -> None:
    plain = recurrent_models.delta("qwen35")
    extra = {
        "blk.3.attn_norm.weight": np.ones(32, np.float32),
        "blk.3.nextn.eh_proj.weight": np.ones((32, 64), np.float32),
    }
    metadata = {**plain.metadata, "block_count": 4, "nextn_predict_layers": 1}
    model = RecurrentModel("qwen35", metadata, {**plain.tensors, **extra})
    expected = logits_of(plain.write(tmp_path / "plain.gguf"))
    np.testing.assert_array_equal(logits_of(model.write(tmp_path / "extra.gguf")), expected)


SPECS = st.builds(
    lambda kind, per_group, groups, head, key, tiled: RecurrentSpec(
        kind, 4, per_group * groups, groups, head, key, tiled and kind == "delta"
    ),
    st.sampled_from(["delta", "scan"]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([1, 20, 64]),
    st.sampled_from([16, 128]),
    st.booleans(),
)


@given(SPECS, st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any))
@examples(200)
def test_every_head_is_held_once_with_its_group(recurrent: RecurrentSpec, weights: list[int]) -> None:
    spec = _with_layer(recurrent)
    layers = [share.layers[0] for share in make_plan(spec, weights)]
    assert layers[0].recurrent.start == 0 and layers[-1].recurrent.stop == recurrent.num_heads
    for before, after in itertools.pairwise(layers):
        assert before.recurrent.stop == after.recurrent.start
    for held in layers:
        for head in range(held.recurrent.start, held.recurrent.stop):
            per_group = recurrent.heads_per_group
            group = head % recurrent.num_groups if recurrent.tiled else head // per_group
            assert held.groups.start <= group < held.groups.stop <= recurrent.num_groups
        assert bool(len(held.recurrent)) == bool(len(held.groups))
    if recurrent.kind == "scan" and recurrent.num_groups >= len(weights):
        cuts = {held.recurrent.start for held in layers}
        assert all(cut % recurrent.heads_per_group == 0 for cut in cuts), "a norm's group is split"


def _with_layer(recurrent: RecurrentSpec) -> Any:
    spec = make_spec(num_layers=1)
    layer = dataclasses.replace(spec.layers[0], attention=None, recurrent=recurrent)
    return dataclasses.replace(spec, layers=(layer,))


@pytest.mark.parametrize("with_logits", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_all_reduces_are_counted(path: Path, num_ranks: int, with_logits: bool) -> None:
    engine = LocalEngine(path, [1] * num_ranks, LIMITS)
    tables = {0: range(-(-len(TOKENS) // LIMITS.block_length))}
    step = step_of(1, [Rows(TOKENS[:8], write_slot=0)], [7] if with_logits else [], tables)
    program = engine.ranks[0].submit(step)
    assert bool(program.logit_rows) == with_logits
    assert program.num_all_reduces == num_all_reduces(engine.ranks[0].spec, num_ranks, with_logits)


def test_a_model_without_recurrent_layers_keeps_no_states() -> None:
    spec = make_spec()
    assert not spec.is_recurrent
    assert state_buffers(spec, make_plan(spec, [1])[0], LIMITS) == {}


def test_states_take_memory_by_slot_and_head(tmp_path: Path) -> None:
    file, spec = open_model(recurrent_models.mamba2().write(tmp_path / "model.gguf"))
    share = make_plan(spec, [1, 1])[0]
    assert share.layers[0].recurrent == Span(0, 3) and share.layers[0].groups == Span(0, 1)
    sizes = {name: buffer.nbytes for name, buffer in state_buffers(spec, share, LIMITS).items()}
    assert sizes["state.1.convolution"] == 3 * 3 * (2 * 16 + 48) * 4
    assert sizes["state.1.heads"] == 3 * 3 * 16 * 16 * 4
    assert len(sizes) == 6
    needs = RankNeeds(spec, file.tensors, share, 2)
    assert needs.keeps_states and needs.bytes(LIMITS).states == sum(sizes.values())
    with pytest.raises(PlanError, match="mamba2 keeps a state of each sequence, but num_slots is 0"):
        state_buffers(spec, share, dataclasses.replace(LIMITS, num_slots=0))
    with pytest.raises(PlanError, match="steps of 30000 rows are too long for a recurrent layer"):
        state_buffers(spec, share, dataclasses.replace(LIMITS, max_rows=30000))
    assert rank_shards(spec, share, file.tensors)["blk.0.ssm_in#4.weight"].rows == Span(256, 259)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("mamba2", {"ssm.conv_kernel": 1}, "ssm.conv_kernel is 1; a number from 2 to 8 is needed"),
        ("mamba2", {"ssm.conv_kernel": 9}, "ssm.conv_kernel is 9; a number from 2 to 8 is needed"),
        ("mamba2", {"ssm.group_count": 4}, r"the number of recurrent heads \(6\) is not a multiple of 4"),
        ("mamba2", {"ssm.inner_size": 95}, r"the inner size of recurrent layers \(95\) is not a multiple"),
        ("mamba2", {"ssm.state_size": 20}, "ssm.state_size is 20; a multiple of 16 is needed"),
        ("mamba2", {"ssm.time_step_rank": 0}, "ssm.time_step_rank is 0; a number from 1 to 65536"),
        ("qwen35", {"full_attention_interval": 0}, "full_attention_interval is 0; a number from 1 to"),
        (
            "qwen35",
            {"attention.recurrent_layers": [1, 0]},
            "recurrent_layers is 'of 2 numbers'; one for each",
        ),
        ("qwen35", {"nextn_predict_layers": 3}, "nextn_predict_layers is 3; a number from 0 to 2"),
        ("qwen35", {"ssm.state_size": 32}, "'blk.0.attn_qkv.weight' has the shape"),
        ("lfm2", {"shortconv.l_cache": 4}, "'blk.0.shortconv.conv.weight' has the shape"),
    ],
)
def test_what_can_not_be_is_refused(
    name: str, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    model = MODELS[name]()
    changed = dataclasses.replace(model, metadata={**model.metadata, **changes})
    with pytest.raises(ModelError, match=sentence):
        open_model(changed.write(tmp_path / "model.gguf"))


@pytest.mark.parametrize(("name", "tensor"), [("mamba2", "blk.1.ssm_d"), ("qwen35", "blk.0.ssm_beta.weight")])
def test_missing_tensors_are_named(name: str, tensor: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    tensors = {key: value for key, value in model.tensors.items() if key != tensor}
    with pytest.raises(ModelError, match=f"the model has no tensor '{tensor}'"):
        open_model(dataclasses.replace(model, tensors=tensors).write(tmp_path / "model.gguf"))
