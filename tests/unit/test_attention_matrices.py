"""Attention of rows of prompts by matrices of float16: for which rows and heads, by which kernel, when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.models import make_spec, tensor_infos, tensor_shapes
from tests.vulkan.cases import limits_for
from tests.vulkan.test_attention import attention_case, attention_op
from tplaunch.coordinator.options import FEATURES
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.checking.everything import every_op
from tplaunch.worker.device import DeviceError, Rounding
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.attention import Attention, AttentionCombine
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.vulkan.dispatch.questions import ask
from tplaunch.worker.vulkan.measuring.preferring import preferred
from tplaunch.worker.vulkan.measuring.rivals import all_rivals, key_counts
from tplaunch.worker.vulkan.measuring.trials import Size

PRODUCT = MatMul(
    Matrix("matrix", "Q8_0", 64, 64), None, "input", "output", 0, "rows", activations="f16", of_prompts=True
)
ATTENTION = attention_op(num_heads=8, num_kv_heads=2, heads_per_kv_head=4, key_length=64, value_length=64)


@pytest.mark.parametrize(
    ("of_prompts", "is_wanted", "lengths", "activations"),
    [
        (True, True, (64, 64), "f16"),
        (True, True, (96, 128), "f16"),
        (False, True, (64, 64), "f32"),  # generated
        (True, False, (64, 64), "f32"),
        (True, True, (192, 128), "f16"),
        (True, True, (256, 256), "f16"),
        (True, True, (64, 12), "f32"),  # words would begin within a value
    ],
)
def test_rows_of_prompts_attend_by_matrices_where_their_heads_fit(
    of_prompts: bool, is_wanted: bool, lengths: tuple[int, int], activations: str
) -> None:
    """They need no second operation then, in however many parts a step's keys are."""
    spec = make_spec(key_length=lengths[0], value_length=lengths[1])
    (share,) = make_plan(spec, [1])
    shards = rank_shards(spec, share, tensor_infos(tensor_shapes(spec)))
    options = ProgramOptions(of_prompts=of_prompts, attends_by_matrices=is_wanted)
    program = build_program(spec, share, shards, 1, 4, 1, options)
    ops = [op for segment in program.segments for op in segment.ops]
    attentions = [op for op in ops if isinstance(op, Attention)]
    assert {op.activations for op in attentions} == {activations}
    assert all((op.finish is not None) == (activations == "f16") for op in attentions)
    assert any(isinstance(op, AttentionCombine) for op in ops) == (activations == "f32")


@pytest.mark.parametrize(
    ("kv_type", "lengths", "kernel"),
    [
        ("f16", (64, 64), "attention_matrices_f16_64"),
        ("f16", (40, 72), "attention_matrices_f16_128"),
        ("q8_0", (128, 128), "attention_matrices_q8_0_128"),
        ("f16", (192, 128), "attention_matrices_f16_256"),
        ("q8_0", (256, 256), "attention_matrices_q8_0_256"),
    ],
)
def test_heads_are_filled_up(kv_type: str, lengths: tuple[int, int], kernel: str) -> None:
    op = attention_op(key_length=lengths[0], value_length=lengths[1], activations="f16")
    limits = limits_for(max_rows=5, kv_type=kv_type)
    assert ask(op, limits, FEATURES, 32, 256, 32).kernel == kernel


def programs() -> list[Program]:
    by_matrices = attention_op(**{**vars(ATTENTION), "activations": "f16"})
    windowed = attention_op(**{**vars(by_matrices), "window": 9, "key_cache": "others"})
    return [Program(4, 1, (Segment((PRODUCT, by_matrices), 0), Segment((PRODUCT, windowed), None)))]


@pytest.mark.parametrize(
    ("faulty", "found"),
    [
        ((), Rounding(True, True)),
        ((MatMul,), Rounding(False, True)),
        ((Attention,), Rounding(True, False)),
        ((MatMul, Attention), Rounding()),
    ],
)
def test_what_is_wrong_by_matrices_leaves_the_rest_alone(faulty: tuple[type, ...], found: Rounding) -> None:
    def prove(part: Sequence[Program]) -> list[str]:
        (program,) = part
        (kind,) = {type(op) for segment in program.segments for op in segment.ops}
        if kind in faulty:
            raise DeviceError(f"{kind.__name__} computes wrong numbers")
        return ["another kernel is not used"]

    prefers, notes = preferred(programs(), prove, lambda part: True)
    assert prefers == found
    said = {MatMul: "are multiplied", Attention: "attend"}
    for kind, doing in said.items():
        note = f"prompts {doing} in float32: {kind.__name__} computes wrong numbers"
        assert (note in notes) == (kind in faulty)
    assert len(notes) == 2


def test_what_a_model_lacks_is_not_preferred() -> None:
    def none(part: Sequence[Program]) -> Any:
        raise AssertionError("there is nothing to prove")

    assert preferred([Program(4, 1, (Segment((ATTENTION,), None),))], none, none)[0] == Rounding(
        products=False, attention=False
    )


def asks(answers: dict[str, str]) -> Callable[..., list[tuple[str, int]]]:
    return lambda op, limits: [(answers[op.activations], 0)]


def test_attention_is_timed_once_for_all_layers() -> None:
    found = all_rivals(
        programs(), "f16", Size(1 << 16), asks({"f32": "attention_f16_4", "f16": "attention_matrices_f16_64"})
    )
    (attention,) = (rivals for rivals in found if "attention" in rivals.name)
    assert attention.name == "prompts attention 8 heads of 64 and 64, 2 of keys in f16, 64 rows, 512 keys"
    assert attention.times == 2
    assert {kind: trial.family for kind, trial in attention.trials.items()} == {
        "f32": "attention_f16_4",
        "f16": "attention_matrices_f16_64",
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("context_length", "expected"), [(64, [512]), (512, [512]), (1000, [512, 1024]), (131072, [512, 4096])]
)
def test_attention_is_timed_over_as_many_keys_as_prompts_meet(
    context_length: int, expected: list[int]
) -> None:
    """Each count is a measurement of its own, in a cache that holds as many."""
    assert key_counts(context_length) == expected
    answers = asks({"f32": "attention_f16_4", "f16": "attention_matrices_f16_64"})
    for keys in expected:
        found = all_rivals(programs(), "f16", Size(1 << 16), answers, keys)
        (attention,) = (rivals for rivals in found if "attention" in rivals.name)
        assert attention.name.endswith(f", {keys} keys")
        assert {trial.limits.context_length for trial in attention.trials.values()} == {keys}
        assert {trial.limits.num_blocks * 32 for trial in attention.trials.values()} == {keys}


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_numpy_rounds_to_float16_and_no_further(kv_type: str, scale: float) -> None:
    """Also where a query's elements are beyond what float16 holds, or below."""
    attended = []
    for activations in ("f32", "f16"):
        op = attention_op(key_length=64, value_length=64, scale=0.1, activations=activations)
        case = attention_case(op, (3, 70, 300), kv_type=kv_type)
        case.arrays["query"] *= np.float32(scale)
        attended.append(case.run(NumpyDevice(case.limits))["attended"])
    error = np.square(attended[1] - attended[0]).sum() / np.square(attended[0]).sum()
    assert error < 1e-6 and (error > 0 or scale > 1)  # there one key's weight is 1, the others' 0


def test_every_device_with_matrices_checks_them() -> None:
    for has_matrices in (True, False):
        found = [op.op for op in every_op(FEATURES, has_matrices)]
        by_matrices = [op for op in found if isinstance(op, Attention) and op.activations == "f16"]
        assert bool(by_matrices) == has_matrices
