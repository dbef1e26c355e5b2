"""Products of activations and weights of every format, against NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import unit_columns
from tests.vulkan.cases import Case, assert_close, limits_for, random_floats, random_matrix
from tests.vulkan.conftest import ON_VULKAN
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.common import QUANTIZED, MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize, row_words


def matmul_case(
    matrix: Matrix,
    rows: int,
    num_rows: int,
    seed: int,
    *,
    bias: bool = False,
    product_scales: bool = False,
    offset: int = 0,
    surplus: int = 0,
    parity: int | None = None,
    logits: bool = False,
    activations: str = "f32",
    largest_scale: float = 0.1,
    **others: Any,
) -> Case:
    """`surplus` columns stand at the end of every input and output row that are not the op's.

    others: members of the op, as they are.
    """
    rng = np.random.default_rng(seed)
    width = -(-matrix.rows // 32) * 32
    arrays: dict[str, npt.NDArray[Any]] = {
        "matrix": random_matrix(rng, matrix, largest_scale),
        "bias": random_floats(rng, matrix.rows),
        "input": random_floats(rng, rows + 1, matrix.columns + 32 * surplus),
        "output": random_floats(rng, rows + 1, offset + matrix.rows + surplus),
        "hidden": random_floats(rng, rows + 1, width),
        "product_scales": rng.uniform(0.5, 2, matrix.rows).astype(np.float32),
    }
    if activations != "f32":
        columns = arrays["input"].shape[1]
        arrays[QUANTIZED] = np.zeros((rows + 1, row_words(columns, activations)), np.uint32)
        words = quantize(arrays["input"][:, : matrix.columns], activations)
        arrays[QUANTIZED][:, : words.shape[1]] = words
    op = MatMul(
        matrix=matrix,
        bias="bias" if bias else None,
        input="input" if activations == "f32" else QUANTIZED,
        output="output" if parity is None else "partials",
        output_offset=offset if parity is None else 0,
        rows="logit_rows" if logits else "rows",
        parity=parity,
        activations=activations,
        product_scales="product_scales" if product_scales else None,
        **others,
    )
    return Case(
        limits=limits_for(max_rows=rows, max_logit_rows=rows),
        ops=(op,),
        arrays=arrays,
        num_rows=1 if logits else num_rows,
        rows=1 if logits else rows,
        logit_rows=tuple(range(num_rows)) if logits else (),
        max_logit_rows=rows if logits else 0,
        partials=random_floats(rng, 2, 3, (rows + 1) * width),
        write_slot=1,
    )


VARIANTS: list[dict[str, Any]] = [
    {},
    {"parity": 0, "scale": 0.25},
    {"parity": 1, "accumulates": True},
    {"logits": True, "scale": 0.01, "softcap": 40.0},
    *({"gated": True, "activation": name} for name in ACTIVATION_FUNCTIONS),
    *({"activation": name} for name in ACTIVATION_FUNCTIONS),
]


def check(device: ReusedDevice, case: Case, tolerance: float = 1e-5) -> None:
    assert_close(device.run(case), case.run(NumpyDevice(case.limits)), tolerance)


def columns(weight_type: str, data: st.DataObject) -> int:
    """Draws a matrix's number of columns: whole blocks."""
    unit = unit_columns(weight_type)
    return unit * data.draw(st.integers(0, max(3, 640 // unit)), "units of columns")


KINDS = [
    (name, activations)
    for name, weight_format in FORMATS.items()
    for activations, is_possible in {
        "f32": True,
        "q8": weight_format.has_integers,
        "f16": weight_format.fits_float16,
    }.items()
    if is_possible
]


@pytest.mark.parametrize(("weight_type", "activations"), KINDS)
@settings(max_examples=12)
@given(data=st.data())
def test_any_shape(device: ReusedDevice, weight_type: str, activations: str, data: st.DataObject) -> None:
    if activations == "f16" and not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices")
    variant = data.draw(st.sampled_from(VARIANTS), "variant")
    matrix = Matrix(
        "matrix",
        weight_type,
        rows=data.draw(st.integers(1, 75), "matrix rows") * (2 if "gated" in variant else 1),
        columns=columns(weight_type, data),
    )
    rows = data.draw(st.integers(1, 40), "rows")
    # Of integers in tiles another device runs the same kernels.
    of_prompts = st.just(False) if device.is_plain and activations == "q8" else st.booleans()
    case = matmul_case(
        matrix,
        rows,
        num_rows=data.draw(st.integers(1, rows), "rows of the step"),
        seed=data.draw(st.integers(0, 999), "seed"),
        bias=data.draw(st.booleans(), "bias"),
        product_scales=data.draw(st.booleans(), "product_scales"),
        offset=data.draw(st.integers(0, 40), "offset"),
        surplus=data.draw(st.integers(0, 2), "surplus"),
        activations=activations,
        of_prompts=data.draw(of_prompts, "of prompts"),
        **variant,
    )
    check(device, case)


@pytest.mark.parametrize("weight_type", ["Q8_0", "Q5_1", "Q2_K", "Q4_K", "Q6_K", "IQ1_M"])
@pytest.mark.parametrize(("rows", "activations"), [(1, "f32"), (5, "f32"), (5, "f16")])
def test_subnormal_scales(device: ReusedDevice, weight_type: str, rows: int, activations: str) -> None:
    """Models have some: float16 knows no smaller numbers than 6e-5 with all its bits."""
    if activations == "f16" and not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices (make test-matrices)")
    matrix, of_prompts = Matrix("matrix", weight_type, 20, 512), rows > 1
    options: dict[str, Any] = {"activations": activations, "of_prompts": of_prompts}
    check(device, matmul_case(matrix, rows, rows, seed=5, largest_scale=5e-5, **options))


def test_no_columns_give_zeros(device: ReusedDevice) -> None:
    case = matmul_case(Matrix("matrix", "Q8_0", 50, 0), rows=4, num_rows=3, seed=0, parity=1)
    results = device.run(case)
    written = results["partials"][1, 1, : 3 * 64].reshape(3, 64)
    assert not written[:, :50].any()
    assert written[:, 50:].all()  # padding is not the kernel's


@pytest.mark.parametrize("rows", [1, 2])
def test_a_long_vocabulary(device: ReusedDevice, rows: int) -> None:
    check(device, matmul_case(Matrix("matrix", "Q4_0", 262143, 32), rows, rows, seed=1))


@ON_VULKAN
def test_a_vocabulary_longer_than_a_row_of_workgroups(
    device: ReusedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one subgroup to a workgroup 65,536 of them are needed; here, too, most have nothing to do."""
    monkeypatch.setattr(
        device, "info", dataclasses.replace(device.info, max_subgroup_size=64, required_subgroup_size=0)
    )
    check(device, matmul_case(Matrix("matrix", "Q8_0", 262144, 32), 1, 1, seed=4))


@pytest.mark.parametrize("rows", [1, 8])
def test_long_rows(device: ReusedDevice, rows: int) -> None:
    check(device, matmul_case(Matrix("matrix", "Q8_0", 5, 131072), rows, rows, seed=2))


@pytest.mark.parametrize("of_prompts", [False, True])
def test_many_rows(device: ReusedDevice, of_prompts: bool) -> None:
    check(device, matmul_case(Matrix("matrix", "Q8_0", 40, 64), 512, 511, seed=3, of_prompts=of_prompts))


@pytest.mark.parametrize("activations", ["f32", "q8", "f16"])
def test_a_row_of_a_prompt_has_its_bits_wherever_it_lies(device: ReusedDevice, activations: str) -> None:
    """Alone, or in any place of a tile, with others before and behind it."""
    if activations == "f16" and not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices (make test-matrices)")
    case = matmul_case(
        Matrix("matrix", "Q4_K", 150, 512), 140, 140, seed=6, activations=activations, of_prompts=True
    )
    together = device.run(case)["output"]
    for first, num_rows in ((0, 1), (0, 70), (13, 1), (139, 1), (37, 64)):
        inputs = case.arrays.keys() & {"input", QUANTIZED}
        chosen = {name: case.arrays[name][first : first + num_rows + 1] for name in inputs}
        arrays = {**case.arrays, **chosen, "output": case.arrays["output"][: num_rows + 1]}
        alone = dataclasses.replace(case, arrays=arrays, rows=num_rows, num_rows=num_rows)
        found = device.run(alone)["output"][:num_rows, :150]
        assert found.tobytes() == np.ascontiguousarray(together[first : first + num_rows, :150]).tobytes()
