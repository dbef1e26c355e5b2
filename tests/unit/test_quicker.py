"""With --activations q8 rows are quantized where a device has timed that integers are faster than floats."""

from __future__ import annotations

import dataclasses

import pytest

from tests.models import make_spec
from tests.unit.test_program import ranks_of
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.measuring.measurements import Numbers
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan.measuring.quicker import quicker_as_floats
from tplaunch.worker.vulkan.measuring.trials import ROWS, Size, trials
from tplaunch.worker.vulkan.variants import candidates, measurement_name

FLOATS, INTEGERS = "matvec_q8_0", "matvec_q8_0_dot"


def numbers(family: str, seconds: float) -> Numbers:
    """The variants' times, of which the last one is the least."""
    suffixes = [variant.suffix for variant in candidates(family, ())]
    return {suffix: seconds + left for left, suffix in enumerate(reversed(suffixes))}


@pytest.mark.parametrize(
    ("floats", "integers", "is_quicker"),
    [
        ({"small": 2e-6, "large": 9e-6}, {"small": 4e-6, "large": 8e-6}, True),
        ({"small": 2e-6}, {"small": 1e-6}, False),
    ],
)
def test_all_sizes_that_were_measured_count(
    floats: dict[str, float], integers: dict[str, float], is_quicker: bool
) -> None:
    found = {f"{FLOATS} {size}": numbers(FLOATS, seconds) for size, seconds in floats.items()}
    found |= {f"{INTEGERS} {size}": numbers(INTEGERS, seconds) for size, seconds in integers.items()}
    found["matvec2_q8_0"] = numbers("matvec2_q8_0", 1.0)  # nothing to compare with
    chosen = quicker_as_floats(lambda name: found.get(name, {}), (), {})
    assert chosen == ({"Q8_0"} if is_quicker else frozenset())


def test_what_was_not_measured_is_quantized() -> None:
    assert quicker_as_floats(lambda name: {}, (), {}) == frozenset()
    only_floats = {f"{FLOATS} small": numbers(FLOATS, 1e-6)}
    assert quicker_as_floats(lambda name: only_floats.get(name, {}), (), {}) == frozenset()


def test_rows_of_such_a_type_stay_floats() -> None:
    """And no others, whose integers pay."""
    (case,) = ranks_of(make_spec(), [1.0], kind="Q8_0", unlike=frozenset())
    case = dataclasses.replace(case, activations="q8")

    def quantized(as_floats: tuple[str, ...]) -> set[str]:
        program = case.program(as_floats=as_floats)
        ops = [op for segment in program.segments for op in segment.ops]
        return {op.matrix.type for op in ops if isinstance(op, MatMul) and op.activations == "q8"}

    assert quantized(()) == quantized(("Q4_0",)) == {"Q8_0"}
    assert quantized(("Q8_0",)) == set()


def test_both_are_timed_where_the_user_allows_integers() -> None:
    def asked(activations: str) -> set[str]:
        op = MatMul(Matrix("m", "Q8_0", 96, 64), None, "input", "output", 0, "rows", activations=activations)
        family = {"f32": "{}_q8_0", "q8": "{}_q8_0_dot"}
        kinds = {1: "matvec", 2: "matvec2", 4: "matvec4"}

        def asks(op: Op, limits: Limits) -> list[tuple[str, int]]:
            assert isinstance(op, MatMul)
            return [(family[op.activations].format(kinds.get(limits.max_rows, "matvec4")), op.matrix.rows)]

        found = trials(
            Program(1, 1, (Segment((op,), None),)),
            "f16",
            Size(1 << 12),
            asks,
        )
        return {trial.name for trial in found}

    families = {f"{kind}_q8_0" for kind in ("matvec", "matvec2", "matvec4")}
    floats = {measurement_name(family, 96) for family in families}
    integers = {measurement_name(f"{family}_dot", 96) for family in families}
    assert len(ROWS) == 3
    assert asked("f32") == floats
    assert asked("q8") == floats | integers
