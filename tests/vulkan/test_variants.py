"""All variants of a kernel family compute the same bits: only so may a measurement choose among them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import unit_columns
from tests.vulkan.cases import Case, limits_for
from tests.vulkan.conftest import ON_VULKAN
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import POSITIONS, attention_case, attention_op, attention_ops
from tests.vulkan.test_experts import grouped_case
from tests.vulkan.test_matmul import matmul_case
from tplaunch.worker.buffers.step import ATTENTION_VECTORS
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.experts import HeldExperts
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.vulkan.variants import FAMILIES, SPLIT_TILES, candidates

TYPES = {name.lower(): name for name in FORMATS}

ARITHMETICS = {True: ("f32", "q8"), False: ("f32",)}  # by whether a format has integers

# Heads of a KV head for which attention of a row runs with so many vectors.
GROUPS = {1: st.just(1), 3: st.integers(2, 3), ATTENTION_VECTORS: st.just(4)}


def case_of(family: str, data: st.DataObject) -> Case:
    """Any one that runs a kernel of the family."""
    kind, weights = family.split("_", 1)
    seed = data.draw(st.integers(0, 999), "seed")
    if weights.startswith("long_"):
        op = attention_op(num_heads=5, heads_per_kv_head=5, key_length=320, value_length=300, scale=0.1)
        return attention_case(op, (70, 30), kv_type=weights.removeprefix("long_"), seed=seed)
    if kind == "attention":
        kv_type, vectors = weights.rsplit("_", 1)
        op = data.draw(attention_ops(GROUPS[int(vectors)]), "op")
        max_rows = 3 if int(vectors) == ATTENTION_VECTORS else 1
        positions = tuple(data.draw(st.lists(POSITIONS, min_size=1, max_size=max_rows), "positions"))
        return attention_case(op, positions, kv_type=kv_type, seed=seed)
    weight_type = TYPES[weights.removesuffix("_dot").removesuffix("_grouped")]
    unit, matrix_rows = unit_columns(weight_type), data.draw(st.integers(1, 70), "matrix rows")
    columns = unit * data.draw(st.integers(1, max(3, 640 // unit)), "units of columns")
    activations = "f16" if kind == "matrices" else "q8" if weights.endswith("_dot") else "f32"
    if "grouped" in family:
        held, by_pair = HeldExperts(2, 1, 4), data.draw(st.booleans(), "by pair")
        matrix = Matrix("matrix", weight_type, held.count * matrix_rows, columns)
        rows = data.draw(st.integers(1, 90), "rows")
        return grouped_case(matrix, held, rows, seed, activations, by_pair)
    of_prompts = kind in ("tiled", "matrices")
    most = 140 if of_prompts else 20
    rows = {"matvec": 1, "matvec2": 2}.get(kind) or data.draw(st.integers(3, most), "rows")
    matrix = Matrix("matrix", weight_type, matrix_rows, columns)
    bias = data.draw(st.booleans(), "bias")
    return matmul_case(matrix, rows, rows, seed, bias=bias, activations=activations, of_prompts=of_prompts)


@ON_VULKAN
@pytest.mark.parametrize(
    "family",
    [
        family
        for family, variants in FAMILIES.items()
        if len(variants) > 1 and not family.startswith(("gather", "exchange"))
    ],
)
@settings(max_examples=8)
@given(data=st.data())
def test_all_variants_compute_the_same_bits(device: ReusedDevice, family: str, data: st.DataObject) -> None:
    if family.startswith("matrices_") and not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices")
    first, *others = candidates(family, device.info.features)
    if device.is_plain and not any(variant.needs for variant in FAMILIES[family]):
        pytest.skip("another device has the same kernels")
    case = case_of(family, data)
    expected = device.run(case, first) if others else {}
    for other in others:
        for name, values in device.run(case, other).items():
            assert values.tobytes() == expected[name].tobytes(), f"{family}{other.suffix}: {name}"


@ON_VULKAN
@pytest.mark.parametrize("weight_type", SPLIT_TILES)
@settings(max_examples=6)
@given(data=st.data())
def test_a_row_split_over_a_workgroup_has_the_same_bits(
    device: ReusedDevice, weight_type: str, data: st.DataObject
) -> None:
    """As if the device were a card: longer rows than a workgroup computes at once, and shorter ones."""
    unit = unit_columns(weight_type)
    columns = unit * data.draw(st.integers(1, 9000 // unit), "units of columns")
    gated, seed = data.draw(st.booleans(), "gated"), data.draw(st.integers(0, 999), "seed")
    matrix = Matrix(
        "matrix", weight_type, data.draw(st.integers(1, 20), "matrix rows") * (1 + gated), columns
    )
    case = matmul_case(matrix, 1, 1, seed, gated=gated, activation="silu", bias=True)
    whole, *others = candidates(f"matvec_{weight_type.lower()}", device.info.features | {"card"})
    expected = device.run(case, whole)["output"].tobytes()
    for split in (variant for variant in others if variant.split_from):
        assert device.run(case, split)["output"].tobytes() == expected, split.suffix


@pytest.mark.parametrize("weight_type", FORMATS)
@settings(max_examples=4)
@given(data=st.data())
def test_a_row_has_the_same_bits_however_many_share_its_step(
    device: ReusedDevice, weight_type: str, data: st.DataObject
) -> None:
    """Each number of rows has kernels of its own, and all add up in one order: shaders/units.slang."""
    unit, matrix_rows = unit_columns(weight_type), data.draw(st.integers(1, 40), "matrix rows")
    columns = unit * data.draw(st.integers(1, max(3, 640 // unit)), "units of columns")
    activations = data.draw(st.sampled_from(ARITHMETICS[FORMATS[weight_type].has_integers]), "activations")
    if activations == "q8" and "integer_dot_product" not in device.info.features:
        return
    seed = data.draw(st.integers(0, 999), "seed")
    together = matmul_case(
        Matrix("matrix", weight_type, matrix_rows, columns), 5, 5, seed, activations=activations
    )
    expected = device.run(together)["output"].reshape(6, -1)
    for count in (1, 2):
        few = replace(together, num_rows=count, rows=count, limits=limits_for(max_rows=count))
        found = device.run(few)["output"].reshape(6, -1)
        assert found[:count].tobytes() == expected[:count].tobytes(), f"{count} rows"
