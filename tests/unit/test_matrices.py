"""Which matrices a device multiplies by, whether that is worth it, and that ranks alike do alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.models import LIMITS, config_of
from tests.unit import test_experts as experts
from tests.unit.collectives_group import connected, on_ranks
from tests.unit.test_context_fit import NUMPY, arranged, gpu
from tplaunch.collectives import Collective
from tplaunch.coordinator.messages import Ready
from tplaunch.coordinator.split.limits import AUTO, Limits
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import check_activations
from tplaunch.launcher.rounding import chosen_activations, rounding_sentence
from tplaunch.shaders.execution_modes import KEEPS_SUBNORMALS, REUNITES_LANES, ROUNDS_TO_EVEN
from tplaunch.worker.measuring.agreeing import agrees
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.experts import ExpertMatMul, HeldExperts
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.vulkan import matrices
from tplaunch.worker.vulkan.matrices import MatrixShape, best_shape
from tplaunch.worker.vulkan.measuring.rivals import Rivals, all_rivals, rounding_wins
from tplaunch.worker.vulkan.measuring.trials import Size, num_weights_of
from tplaunch.worker.vulkan.subgroups import SubgroupSizes

NVIDIA = SubgroupSizes(least=32, most=32, required=32, full=True)
RDNA = SubgroupSizes(least=32, most=64, required=64, full=True)
WIDE = SubgroupSizes(least=64, most=64, full=True)
XE = SubgroupSizes(least=8, most=32, required=16, full=True)
XE2 = SubgroupSizes(least=16, most=32, required=16, full=True)
UNCONTROLLED = SubgroupSizes(least=8, most=32)
LAVAPIPE = SubgroupSizes(least=8, most=8)


@pytest.mark.parametrize(
    ("shapes", "sizes", "best"),
    [
        ([(16, 8, 8), (16, 8, 16), (16, 16, 16)], NVIDIA, (16, 16, 16)),
        ([(16, 16, 16)], RDNA, (16, 16, 16)),
        ([(16, 16, 16)], WIDE, None),  # 64 lanes would have four numbers each
        ([(8, 8, 16)], XE, (8, 8, 16)),
        ([(8, 16, 16)], XE2, (8, 16, 16)),
        ([(8, 8, 16)], UNCONTROLLED, None),  # it may get other lanes than eight
        ([(8, 8, 8)], LAVAPIPE, (8, 8, 8)),
        # What is not square, or deeper: the squarest for the most lanes, and of these the deepest.
        ([(16, 16, 16), (16, 16, 32), (16, 16, 8)], NVIDIA, (16, 16, 32)),
        ([(32, 8, 16), (16, 16, 16), (8, 32, 16)], NVIDIA, (16, 16, 16)),
        ([(32, 8, 32), (16, 16, 16)], RDNA, (16, 16, 16)),
        ([(32, 8, 16), (8, 32, 16)], NVIDIA, (32, 8, 16)),
        ([(32, 32, 16), (16, 16, 16), (16, 8, 16)], NVIDIA, (16, 16, 16)),  # 128 lanes have no subgroup
        ([(32, 32, 16)], NVIDIA, None),
        ([(8, 8, 32), (8, 8, 16)], LAVAPIPE, (8, 8, 32)),
        ([(8, 8, 32), (8, 16, 16)], XE, (8, 16, 16)),
        ([(16, 32, 16), (32, 16, 16), (16, 16, 16)], WIDE, (32, 16, 16)),
        ([(16, 16, 64)], NVIDIA, None),  # more columns than a workgroup brings
        ([(12, 16, 16), (16, 16, 24)], NVIDIA, None),  # no tile is cut into such pieces
        ([], NVIDIA, None),
    ],
)
def test_a_device_gets_the_best_matrices_that_its_subgroups_share_out(
    shapes: list[tuple[int, int, int]], sizes: SubgroupSizes, best: tuple[int, int, int] | None
) -> None:
    found = best_shape([MatrixShape(*shape) for shape in shapes], sizes)
    assert found == (MatrixShape(*best) if best else None)


@dataclass(frozen=True)
class Described:
    """A device's description, as far as its matrices depend on that."""

    cooperative_matrix: bool = True
    float16: bool = True
    subgroup_shuffle: bool = True
    max_invocations: int = 1024
    sizes: SubgroupSizes = NVIDIA


def test_a_device_described_without_a_feature_has_no_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--without` has it described; the driver, which would be asked, has all of them."""
    for name, answer in (
        ("_has_room", True),
        ("_has_features", True),
        ("_shapes", [MatrixShape(16, 16, 16)]),
        ("execution_modes", (ROUNDS_TO_EVEN,)),
    ):
        monkeypatch.setattr(matrices, name, lambda *_, answer=answer: answer)
    assert matrices.matrix_shape(None, None, Described()) == MatrixShape(16, 16, 16)  # type: ignore[arg-type]
    for lacking in ("cooperative_matrix", "float16", "subgroup_shuffle"):
        described = Described(**{lacking: False})  # type: ignore[arg-type]
        assert matrices.matrix_shape(None, None, described) is None  # type: ignore[arg-type]
    # Nor has one that can't be told to round to the nearest: it may make all weights smaller.
    monkeypatch.setattr(matrices, "execution_modes", lambda _: (KEEPS_SUBNORMALS, REUNITES_LANES))
    assert matrices.matrix_shape(None, None, Described()) is None  # type: ignore[arg-type]


def test_activations_are_refused_without_what_they_need() -> None:
    for activations, without in (
        ("f16", "float16"), ("f16", "subgroup_shuffle"), ("q8", "integer_dot_product")
    ):  # fmt: skip
        config = config_of(Path("m.gguf"), activations=activations, without=(without,))
        with pytest.raises(UsageError, match=f"--activations {activations}: .* use --activations f32"):
            check_activations(config, [gpu(0, 24e9)])
        check_activations(dataclasses.replace(config, without=("int64",)), [gpu(0, 24e9)])


@pytest.mark.parametrize(
    ("seconds", "wins"),
    [
        ([{"f32": 1.0, "f16": 0.5}], True),
        ([{"f32": 1.0, "f16": 0.99}], False),  # not worth what it rounds
        ([{"f32": 1.0, "f16": 0.1}, {"f32": 1.0, "f16": 3.0}], False),
        ([{"f32": 1.0, "q8": 0.5}], True),
        ([{"f32": 1.0}], False),  # wrong by matrices, say
        ([], False),
    ],
)
def test_rounding_is_chosen_where_a_whole_step_is_faster(seconds: list[dict[str, float]], wins: bool) -> None:
    rivals = [Rivals(str(number), {}, 1.0) for number in range(len(seconds))]
    assert rounding_wins(rivals, lambda each: seconds[int(each.name)]) is wins


def test_experts_are_timed_with_as_many_rows_as_they_get() -> None:
    """An expert of six, of which each row takes two, gets 21.3 of 64 rows; the trial has fewer weights."""
    types = {f"ffn_{name}_exps.weight": "Q8_0" for name in ("gate", "up", "down")}
    spec = experts.experts_spec(length=96)
    program = experts.program(spec, 0, 64, types, activations="f16", of_prompts=True)
    products = [op for segment in program.segments for op in segment.ops if isinstance(op, ExpertMatMul)]
    size = Size(max_weights=2 * 2 * 32 * 32 + 5, rotated_bytes=1 << 16)
    (found,) = all_rivals([program], "f16", size, lambda op, limits: [("family", 0)])
    assert list(found.trials) == ["f32", "f16"]
    for activations, trial in found.trials.items():
        op = trial.op
        assert isinstance(op, ExpertMatMul) and (op.activations, op.of_prompts) == (activations, True)
        assert (op.gated, op.columns, op.held) == (True, 32, HeldExperts(1, 0, 2))
        assert trial.rows == trial.limits.max_rows == 2 * 22
        assert len({copy.matrix.name for copy in trial.ops if isinstance(copy, ExpertMatMul)}) > 1
        assert found.times == sum(map(num_weights_of, products)) / num_weights_of(op)


@pytest.mark.parametrize(
    ("kinds", "wishes", "granted"),
    [
        ("aa", (True, True), (True, True)),
        ("aa", (True, False), (False, False)),  # equal devices that measured otherwise
        ("aab", (True, True, False), (True, True, False)),
        ("aba", (False, True, True), (False, True, False)),
        ("a", (True,), (True,)),
    ],
)
def test_ranks_on_equal_devices_do_the_same(
    kinds: str, wishes: tuple[bool, ...], granted: tuple[bool, ...]
) -> None:
    def ask(rank: Collective) -> bool:
        return agrees(SegmentRunner(NumpyDevice(LIMITS), rank), kinds, wishes[rank.rank])

    with connected("shared-memory", len(kinds)) as ranks:
        assert tuple(on_ranks(ranks, ask)) == granted


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, {}, AUTO),
        ({"lacks": frozenset({"f16"})}, {}, "f32"),
        ({}, {"without": ("cooperative_matrix",)}, "f32"),
        ({}, {"without": ("float16",)}, "f32"),
        ({}, {"activations": "f32"}, "f32"),
        ({}, {"activations": "f16"}, "f16"),
    ],
)
def test_there_is_a_choice_only_where_a_device_has_matrices(
    changes: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    _, _, found = arranged([gpu(0, 24e9, **changes), NUMPY], **options)
    assert found.limits.activations == expected


def test_a_choice_that_rounds_is_said() -> None:
    limits = Limits(context_length=32, num_blocks=1, activations=AUTO)
    floats, matrices = Ready(0, "import"), Ready(0, "import", prompts="f16")
    assert rounding_sentence(limits, [floats, floats]) is None
    assert rounding_sentence(Limits(context_length=32, num_blocks=1, activations="f16"), [matrices]) is None
    assert str(rounding_sentence(limits, [matrices] * 2)).startswith(
        "prompts are multiplied by float16 matrices, which measured faster: logits differ from float32"
    )
    assert "float16 matrices on ranks 0, 2, which" in str(
        rounding_sentence(limits, [matrices, floats, matrices])
    )
    assert "about 1e-6 to 2e-6 (--activations" in str(rounding_sentence(limits, [matrices]))
    quantized = dataclasses.replace(limits, kv_type="q8_0")
    assert "about 2e-5, as a q8_0 cache" in str(rounding_sentence(quantized, [matrices]))
    experts = str(rounding_sentence(limits, [matrices], has_experts=True))
    assert "about 1e-6 to 2e-6, and up to some 2e-4 behind a row that goes to another expert" in experts
    assert chosen_activations(limits, [matrices, floats]) == "f16/f32"
    assert chosen_activations(limits, [floats]) == "f32"
    wanted = Limits(context_length=32, num_blocks=1, activations="q8")
    assert chosen_activations(wanted, [Ready(0, "import", prompts="q8"), floats]) == "f32/q8"
