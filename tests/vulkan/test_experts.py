"""Kernels of experts against NumPy: routing, tiles, products with the chosen experts, their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import tame_rows
from tests.vulkan.cases import Case, assert_close, limits_for, random_floats, random_matrix
from tests.vulkan.expert_bounds import output_bounds
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.model.experts import GATINGS
from tplaunch.worker.checking.case import filled_matrix
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS, GATED_ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.common import QUANTIZED, QUANTIZED_PAIRS
from tplaunch.worker.ops.experts import (
    GROUPED,
    PROMPT_PAIRS,
    TILE_PAIRS,
    ExpertMatMul,
    ExpertSum,
    ExpertTiles,
    HeldExperts,
    Route,
    RowGate,
    SharedRoutes,
    tile_words,
)
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import dequantize, quantize, row_words

SEEDS = st.integers(0, 999)
Arrays = dict[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float32]


def check(device: ReusedDevice, case: Case, tolerance: float = 1e-5) -> Arrays:
    """Returns what the device computed."""
    actual = device.run(case)
    assert_close(actual, case.run(NumpyDevice(case.limits)), tolerance)
    return actual


def route_case(op: Route, logits: Floats, bias: Floats, num_rows: int) -> Case:
    rows = len(logits)
    arrays: Arrays = {
        "router": logits,
        "probability_bias": bias,
        "routes": np.zeros((rows, -(-2 * op.used // 4) * 4), np.float32),
    }
    return Case(limits_for(max_rows=rows), (op,), arrays, num_rows, rows)


def route_op(count: int, used: int, **changes: Any) -> Route:
    features: dict[str, Any] = {
        "gating": "softmax",
        "normalised": False,
        "scale": 1.0,
        "num_groups": 1,
        "used_groups": 1,
        "bias": None,
        **changes,
    }
    return Route(count, used, **features)


@settings(max_examples=40)
@given(data=st.data())
def test_routing(device: ReusedDevice, data: st.DataObject) -> None:
    """Logits and biases of few values: many are ties, and no other two are near to each other."""
    num_groups = data.draw(st.sampled_from([1, 1, 2, 4]), "groups")
    count = num_groups * data.draw(st.integers(1, 40), "experts of a group")
    used_groups = data.draw(st.integers(1, num_groups), "groups of a row")
    op = route_op(
        count,
        used=data.draw(st.integers(1, min(64, count // num_groups * used_groups)), "experts of a row"),
        gating=data.draw(st.sampled_from(GATINGS), "gating"),
        normalised=data.draw(st.booleans(), "normalised"),
        scale=data.draw(st.sampled_from([1.0, 2.5]), "scale"),
        num_groups=num_groups,
        used_groups=used_groups,
        bias=data.draw(st.sampled_from([None, "probability_bias"]), "bias"),
    )
    rng = np.random.default_rng(data.draw(SEEDS, "seed"))
    rows = data.draw(st.integers(1, 9), "rows")
    logits = rng.integers(-3, 4, (rows, count)).astype(np.float32)
    bias = rng.integers(0, 3, count).astype(np.float32)
    case = route_case(op, logits, bias, data.draw(st.integers(1, rows), "rows of the step"))
    routes = check(device, case)["routes"][: case.num_rows, : op.used]
    assert all(len(set(experts)) == op.used for experts in routes)


@pytest.mark.parametrize(("count", "used"), [(512, 64), (257, 3), (1, 1)])
def test_routing_to_many_experts(device: ReusedDevice, count: int, used: int) -> None:
    rng = np.random.default_rng(count)
    order = np.stack([rng.permutation(count) for _ in range(5)])
    logits = (order * np.float32(0.0625)).astype(np.float32)
    routes = check(device, route_case(route_op(count, used), logits, np.zeros(count, np.float32), 5))[
        "routes"
    ]
    np.testing.assert_array_equal(routes[:, :used], np.argsort(-order, axis=1)[:, :used])


def test_what_is_not_a_number_still_goes_to_experts_that_there_are(device: ReusedDevice) -> None:
    """A damaged model must not make kernels read beyond their buffers."""
    logits = np.full((3, 10), np.nan, np.float32)
    logits[1, 4] = logits[2, 7] = 1
    case = route_case(route_op(10, 3), logits, np.zeros(10, np.float32), 3)
    chosen = [[0, 1, 2], [4, 0, 1], [7, 0, 1]]
    for results in (device.run(case), case.run(NumpyDevice(case.limits))):
        np.testing.assert_array_equal(results["routes"][:, :3], chosen)


@pytest.mark.parametrize("decides", [False, True])
def test_a_choice_for_all_ranks(device: ReusedDevice, decides: bool) -> None:
    """It goes to the rank's own slot, packed; the others' zeros are added to it."""
    rng, rows, used, length = np.random.default_rng(7), 5, 3, 8
    logits = rng.permutation(4 * rows * 10).reshape(rows, -1).astype(np.float32) / 8
    arrays: Arrays = {
        "router": logits,
        "hidden": np.zeros((rows, 32), np.float32),
        "routes": np.zeros((rows, length), np.float32),
    }
    partials = np.zeros((2, 3, rows * 32), np.float32)
    partials[1, 0, : rows * length] = rng.integers(0, 9, rows * length)
    partials[1, 1] = 5  # of a step before
    ops = (route_op(logits.shape[1], used, parity=1, decides=decides), SharedRoutes(1))
    case = Case(limits_for(max_rows=rows), ops, arrays, rows, rows, partials=partials, write_slot=1)
    actual, expected = device.run(case), case.run(NumpyDevice(case.limits))
    for results in (actual, expected):
        chosen = np.argsort(-logits, axis=1)[:, :used] if decides else 0
        told = partials[1, 0, : rows * length].reshape(rows, length)
        np.testing.assert_array_equal(results["routes"][:, :used], told[:, :used] + chosen)
    np.testing.assert_allclose(
        actual["routes"][:, : 2 * used], expected["routes"][:, : 2 * used], rtol=1e-5, atol=1e-6
    )


def random_routes(rng: np.random.Generator, rows: int, count: int, used: int, spread: int) -> Floats:
    """To the first `spread` experts, but at least as many as a row needs."""
    routes = np.zeros((rows, -(-2 * used // 4) * 4), np.float32)
    choices = min(count, max(used, spread))
    for row in routes:
        row[:used] = rng.permutation(choices)[:used]
        row[used : 2 * used] = rng.uniform(0.1, 1, used)
    return routes


def tiles_of(held: HeldExperts, rows: int) -> npt.NDArray[np.uint32]:
    return np.zeros(held.tile_bytes(rows) // 4, np.uint32)


Routing = tuple[HeldExperts, int, int, Floats]


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    """Draws the experts that a rank holds, the rows of program and step, and the rows' routes."""
    count = draw(st.integers(1, 12))
    first = draw(st.integers(0, count - 1))
    held = HeldExperts(draw(st.integers(1, min(count, 4))), first, draw(st.integers(1, count - first)))
    rows = draw(st.integers(1, 40))
    spread = draw(st.sampled_from([1, 2, count]))  # all rows to one expert, or some experts without a row
    rng = np.random.default_rng(draw(SEEDS))
    return held, rows, draw(st.integers(1, rows)), random_routes(rng, rows, count, held.used, spread)


@settings(max_examples=30)
@given(routing=routings(), length=st.sampled_from([TILE_PAIRS, PROMPT_PAIRS]))
def test_tiles_hold_every_pair_once(device: ReusedDevice, routing: Routing, length: int) -> None:
    held, rows, num_rows, routes = routing
    arrays: Arrays = {"routes": routes, "expert_tiles": tiles_of(held, rows)}
    case = Case(limits_for(max_rows=rows), (ExpertTiles(held, length),), arrays, num_rows, rows)
    experts = routes[:num_rows, : held.used].reshape(-1).astype(int) - held.first
    expected = [pair for pair, expert in enumerate(experts) if 0 <= expert < held.count]
    for results in (device.run(case), case.run(NumpyDevice(case.limits))):
        words = tile_words(length)
        tiles = results["expert_tiles"][: held.num_tiles(rows, length) * words].reshape(-1, words)
        assert tiles[:, 1].max() <= length
        pairs = [(pair, tile[0]) for tile in tiles for pair in tile[2 : 2 + tile[1]]]
        assert sorted(pair for pair, _ in pairs) == expected
        assert all(experts[pair] == expert for pair, expert in pairs)


def activations_of(device: ReusedDevice, weight_type: str) -> list[str]:
    """The kinds of activations that a device multiplies by a weight type; f16 for rows of prompts only."""
    weight_format, kinds = FORMATS[weight_type], ["f32"]
    if weight_format.has_integers and "integer_dot_product" in device.info.features:
        kinds.append("q8")
    if device.has_matrices and weight_format.fits_float16:
        kinds.append("f16")
    return kinds


@st.composite
def products(draw: st.DrawFn, held: HeldExperts, weight_type: str, kinds: list[str]) -> ExpertMatMul:
    """A product of a weight type, with activations of any of these kinds."""
    columns = draw(st.integers(1, 40), "columns")
    gated, tiled = draw(st.booleans(), "gated"), draw(st.booleans(), "tiled")
    of_prompts = tiled and weight_type in GROUPED and draw(st.booleans(), "of prompts")
    activations = draw(
        st.sampled_from([kind for kind in kinds if of_prompts or kind != "f16"]), "activations"
    )
    unit = FORMATS[weight_type].tile_columns
    length = unit * draw(st.integers(1, 288 // unit), "tiles")
    onto_up = not gated and draw(st.booleans(), "onto up")
    functions = [None, *ACTIVATION_FUNCTIONS]
    if weight_type in ("F32", "F16") and (gated or onto_up):  # others' products are beyond where it clamps
        functions += GATED_ACTIVATION_FUNCTIONS
    by_pair, offset = draw(st.booleans(), "by pair"), draw(st.integers(0, 9), "offset")
    return ExpertMatMul(
        Matrix("matrix", weight_type, held.count * columns * (2 if gated else 1), length),
        draw(st.sampled_from([None, "bias"]), "bias"),
        "input" if activations == "f32" else QUANTIZED_PAIRS if by_pair else QUANTIZED,
        "output",
        offset,
        columns,
        held,
        by_pair=by_pair,
        tiled=tiled,
        activation=draw(st.sampled_from(functions), "activation"),
        gated=gated,
        onto_up=onto_up,
        weighs=draw(st.booleans(), "weighs"),
        product_scales=draw(st.sampled_from([None, "product_scales"]), "product_scales"),
        of_prompts=of_prompts,
        activations=activations,
    )


def product_arrays(
    op: ExpertMatMul,
    packed: npt.NDArray[np.uint8],
    routes: npt.NDArray[Any],
    rows: int,
    rng: np.random.Generator,
) -> Arrays:
    """The buffers of a product whose matrix these are; rounded rows are not there yet."""
    held, matrix = op.held, op.matrix
    return {
        "matrix": filled_matrix(matrix, packed),
        "bias": random_floats(rng, matrix.rows),
        "product_scales": rng.uniform(0.5, 2, matrix.rows // op.columns).astype(np.float32),
        "input": random_floats(rng, rows * (held.used if op.by_pair else 1), matrix.columns + 32),
        "output": random_floats(rng, rows * held.used, op.output_offset + op.columns + 3),
        "routes": routes,
        "expert_tiles": tiles_of(held, rows),
    }


@pytest.mark.parametrize("weight_type", FORMATS)
@settings(max_examples=12)
@given(data=st.data())
def test_products(device: ReusedDevice, weight_type: str, data: st.DataObject) -> None:
    if weight_type not in gguf.GGMLQuantizationType.__members__:
        pytest.skip(f"the gguf package is older than {weight_type}")
    held, rows, num_rows, routes = data.draw(routings(), "routing")
    op = data.draw(products(held, weight_type, activations_of(device, weight_type)), "op")
    rng, matrix = np.random.default_rng(data.draw(SEEDS, "seed")), op.matrix
    packed = tame_rows(weight_type, matrix.rows, matrix.columns, rng, 0.1)
    weights = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[weight_type]).astype(np.float64)
    exact = arrays = product_arrays(op, packed, routes, rows, rng)
    if op.activations != "f32":
        arrays[op.input] = quantized(arrays["input"], matrix.columns, op.activations)
        exact = {**arrays, "input": dequantize(arrays[op.input], matrix.columns, op.activations)}
    if op.activations == "f16":
        weights = weights.astype(np.float16).astype(np.float64)
    tiles = ExpertTiles(held, PROMPT_PAIRS if op.of_prompts else TILE_PAIRS)
    case = Case(limits_for(max_rows=rows), (tiles, op) if op.tiled else (op,), arrays, num_rows, rows)
    actual, expected = device.run(case), case.run(NumpyDevice(case.limits))
    for results in (actual, expected):
        del results["expert_tiles"]  # empty ones may hold anything
    apart = np.abs(actual.pop("output").astype(np.float64) - expected.pop("output"))
    bounds = output_bounds(op, exact, weights, num_rows)
    worst = np.argmax(apart - bounds)
    assert np.all(apart <= bounds), f"{apart.flat[worst]} apart where {bounds.flat[worst]} may be"
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


@pytest.mark.parametrize("activations", ["f32", "q8"])
def test_tiles_and_single_pairs_give_the_same_bits(device: ReusedDevice, activations: str) -> None:
    rng, held, rows = np.random.default_rng(5), HeldExperts(2, 0, 6), 20
    matrix = Matrix("matrix", "Q8_0", 6 * 20, 96)
    arrays: Arrays = {
        "matrix": random_matrix(rng, matrix),
        "input": random_floats(rng, rows, matrix.columns),
        "output": np.zeros((rows * 2, 20), np.float32),
        "routes": random_routes(rng, rows, 6, 2, 6),
        "expert_tiles": tiles_of(held, rows),
    }
    if activations != "f32":
        arrays["input"] = quantized(arrays["input"], matrix.columns, activations)
    outputs = []
    for tiled in (False, True):
        kind = {"tiled": tiled, "activations": activations}
        op = ExpertMatMul(matrix, None, "input", "output", 0, 20, held, **kind)  # type: ignore[arg-type]
        ops = (ExpertTiles(held), op) if tiled else (op,)
        outputs.append(device.run(Case(limits_for(max_rows=rows), ops, arrays, rows, rows))["output"])
    assert outputs[0].any()
    np.testing.assert_array_equal(outputs[0], outputs[1])


def quantized(rows: Floats, columns: int, activations: str) -> npt.NDArray[np.uint32]:
    """Returns what Quantize makes of the first columns of rows, in a buffer for all of them."""
    words = np.zeros((len(rows), row_words(rows.shape[1], activations)), np.uint32)
    found = quantize(rows[:, :columns], activations)
    words[:, : found.shape[1]] = found
    return words


def grouped_case(
    matrix: Matrix, held: HeldExperts, rows: int, seed: int, activations: str = "f32", by_pair: bool = False
) -> Case:
    """Products of rows of prompts, of which some experts get none and others more than one tile."""
    rng, columns = np.random.default_rng(seed), matrix.rows // held.count
    arrays: Arrays = {
        "matrix": random_matrix(rng, matrix),
        "input": random_floats(rng, rows * (held.used if by_pair else 1), matrix.columns),
        "output": np.zeros((rows * held.used, columns), np.float32),
        "routes": random_routes(rng, rows, held.first + held.count, held.used, held.first + 2),
        "expert_tiles": tiles_of(held, rows),
    }
    source = "input" if activations == "f32" else QUANTIZED_PAIRS if by_pair else QUANTIZED
    if activations != "f32":
        arrays[source] = quantized(arrays["input"], matrix.columns, activations)
    kind: dict[str, Any] = {"of_prompts": True, "activations": activations, "by_pair": by_pair}
    op = ExpertMatMul(matrix, None, source, "output", 0, columns, held, tiled=True, activation="silu", **kind)
    return Case(limits_for(max_rows=rows), (ExpertTiles(held, PROMPT_PAIRS), op), arrays, rows, rows)


@pytest.mark.parametrize(
    ("weight_type", "activations", "by_pair"),
    [
        ("Q4_K", "f32", False),
        ("BF16", "f32", False),
        ("Q4_K", "q8", False),
        ("Q3_K", "q8", True),
        ("Q4_K", "f16", False),
        ("F16", "f16", True),
    ],
)
def test_a_row_of_a_prompt_has_its_bits_whoever_goes_to_its_experts(
    device: ReusedDevice, weight_type: str, activations: str, by_pair: bool
) -> None:
    if activations == "f16" and not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices (make test-matrices)")
    held = HeldExperts(2, 0, 3)
    matrix = Matrix("matrix", weight_type, 3 * 70, 512)
    case = grouped_case(matrix, held, 100, 3, activations, by_pair)
    together = device.run(case)["output"].reshape(100, -1)
    assert together.any(axis=1).all()
    for first, rows in ((0, 1), (99, 1), (30, 40)):
        per_row = len(case.arrays["input"]) // 100
        chosen = {
            **{
                name: case.arrays[name][first * per_row : (first + rows) * per_row]
                for name in ("input", QUANTIZED, QUANTIZED_PAIRS)
                if name in case.arrays
            },
            "routes": case.arrays["routes"][first : first + rows],
            "output": np.zeros((rows * held.used, 70), np.float32),
            "expert_tiles": tiles_of(held, rows),
        }
        alone = replace(case, arrays={**case.arrays, **chosen}, rows=rows, num_rows=rows)
        found = device.run(alone)["output"]
        assert found.tobytes() == np.ascontiguousarray(together[first : first + rows]).tobytes()


@settings(max_examples=20)
@given(routing=routings(), data=st.data())
def test_sums(device: ReusedDevice, routing: Routing, data: st.DataObject) -> None:
    held, rows, num_rows, routes = routing
    width = 4 * data.draw(st.integers(1, 40), "quads")
    rng = np.random.default_rng(data.draw(SEEDS, "seed"))
    op = ExpertSum(
        held,
        parity=data.draw(st.integers(0, 1), "parity"),
        scale=data.draw(st.sampled_from([1.0, 0.25]), "scale"),
        weighs=data.draw(st.booleans(), "weighs"),
        accumulates=data.draw(st.booleans(), "accumulates"),
    )
    arrays: Arrays = {
        "hidden": random_floats(rng, rows, width),
        "expert_outputs": random_floats(rng, rows * held.used, width),
        "routes": routes,
    }
    partials = random_floats(rng, 2, 3, rows * width)
    case = Case(limits_for(max_rows=rows), (op,), arrays, num_rows, rows, partials=partials, write_slot=1)
    check(device, case)


@settings(max_examples=15)
@given(
    quads=st.integers(1, 100),
    columns=st.integers(1, 100),
    offset=st.integers(0, 20),
    rows=st.integers(1, 9),
    seed=SEEDS,
)
def test_row_gates(device: ReusedDevice, quads: int, columns: int, offset: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays: Arrays = {
        "normed": random_floats(rng, rows, 4 * quads),
        "weight": random_floats(rng, 4 * quads),
        "values": random_floats(rng, rows, offset + columns + 5),
    }
    op = RowGate("weight", 4 * quads, "normed", "values", offset, columns)
    check(device, Case(limits_for(max_rows=rows), (op,), arrays, rows, rows), 2e-5)
