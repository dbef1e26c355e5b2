"""Samples of a model's layers, and what is made of the times that they take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.predicting.samples import MAX_KINDS, layer_kinds, samples, work_of
from tplaunch.launcher.predicting.seconds import Seconds

LLAMA, GEMMA = SHAPES["llama-160m"], SHAPES["gemma-3-270m"]
RECURRENT = SHAPES["qwen3.5-0.8b"]


@pytest.mark.parametrize("name", ["llama-160m", "gemma-3-270m", "qwen3.5-0.8b", "qwen3-30b-a3b"])
def test_every_sample_is_a_model_of_its_own(name: str) -> None:
    shape, tensors = SHAPES[name], shape_tensors(SHAPES[name], "Q8_0")
    share = make_plan(shape.spec, [1.0, 1.0])[1]
    kinds = layer_kinds(shape.spec, tensors)
    found = samples(kinds, 10e6)
    assert len(found) == len(kinds.examples) + 1
    for sample in found:
        held = {tensor.name: tensor for tensor in sample.tensors(tensors)}
        check_tensors(sample.spec(shape.spec), held)
        assert len(sample.share(share).layers) == sample.spec(shape.spec).num_layers == sum(sample.counts)


def test_layers_of_one_kind_have_the_same_parts_and_types() -> None:
    tensors = shape_tensors(LLAMA, "Q8_0")
    assert layer_kinds(LLAMA.spec, tensors).kinds == (0,) * 12
    name = "blk.11.ffn_down.weight"
    other = {**tensors, name: replace(tensors[name], type="Q4_0", nbytes=tensors[name].nbytes // 2)}
    kinds = layer_kinds(LLAMA.spec, other)
    assert kinds.kinds == (*(0,) * 11, 1) and kinds.examples == (0, 11) and kinds.counts == (11, 1)


def test_windows_and_recurrent_layers_are_kinds_of_their_own() -> None:
    gemma = layer_kinds(GEMMA.spec, shape_tensors(GEMMA, "Q8_0"))
    assert len(gemma.examples) == 2 and sum(gemma.counts) == GEMMA.spec.num_layers
    recurrent = layer_kinds(RECURRENT.spec, shape_tensors(RECURRENT, "Q8_0"))
    assert len(recurrent.examples) == 2


def test_kinds_beyond_the_most_count_as_the_most_like_them() -> None:
    tensors = dict(shape_tensors(LLAMA, "Q8_0"))
    for index in range(12):  # each layer has a size of its own
        name = f"blk.{index}.ffn_down.weight"
        tensors[name] = replace(tensors[name], nbytes=tensors[name].nbytes + index * 1000)
        tensors[name] = replace(tensors[name], type=f"of layer {index}")
    kinds = layer_kinds(LLAMA.spec, tensors)
    assert (
        len(kinds.examples) == MAX_KINDS and kinds.kinds[:4] == (0, 1, 2, 3) and set(kinds.kinds[4:]) == {3}
    )
    assert kinds.scales[11] > kinds.scales[3] == 1.0


def test_samples_have_more_layers_than_caches_hold_and_never_more_than_the_model() -> None:
    kinds = layer_kinds(LLAMA.spec, shape_tensors(LLAMA, "Q8_0"))
    counts = [[sample.counts for sample in samples(kinds, least)] for least in (0, 20e6, 1e9)]
    assert counts == [[(1,), (3,)], [(3,), (6,)], [(6,), (12,)]]


def test_layers_and_the_rest_come_of_differences() -> None:
    kinds = layer_kinds(GEMMA.spec, shape_tensors(GEMMA, "Q8_0"))
    first, second, rest = Seconds(device=2.0), Seconds(device=5.0, dispatch=0.5), Seconds(dispatch=7.0)
    taken = []
    for sample in samples(kinds, 0):
        total = rest + first * sample.counts[0] + second * sample.counts[1]
        taken.append((sample, total))
    work = work_of(kinds, taken)
    assert (work.rest.device, work.rest.dispatch) == pytest.approx((0.0, 7.0))
    for layer, kind in zip(work.layers, kinds.kinds, strict=True):
        expected = (first, second)[kind]
        assert (layer.device, layer.dispatch) == pytest.approx((expected.device, expected.dispatch))


def test_noise_makes_no_layer_take_less_than_nothing() -> None:
    kinds = layer_kinds(LLAMA.spec, shape_tensors(LLAMA, "Q8_0"))
    one, two = samples(kinds, 0)
    work = work_of(kinds, [(one, Seconds(device=3.0)), (two, Seconds(device=2.9))])
    assert {layer.total for layer in work.layers} == {0.0} and work.rest.device == 3.0
