"""Computes experts with NumPy: routing, products expert by expert, sums."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tplaunch.worker.numpy.by_row import by_row
from tplaunch.worker.numpy.products import as_float16
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops import quantized
from tplaunch.worker.ops.activation_functions import (
    ACTIVATION_FUNCTIONS,
    GATED_ACTIVATION_FUNCTIONS,
    logistic,
)
from tplaunch.worker.ops.experts import (
    ExpertMatMul,
    ExpertSum,
    ExpertTiles,
    HeldExperts,
    Route,
    RowGate,
    SharedRoutes,
    tile_words,
)

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
SMALLEST_SUM = np.float32(6.103515625e-5)  # that weights are divided by: float16's smallest normal number


def route(op: Route, state: NumpyState) -> None:
    if op.parity is None:
        routes = state.rows("routes")
    else:
        routes = _partial_routes(op.parity, state.write_slot, state)
    if not op.decides:
        routes[:] = 0
        return
    logits = state.rows("router")[:, : op.count]
    probabilities = _probabilities(logits, op.gating)
    keys = logits if op.by_logits else probabilities
    if op.bias is not None:
        keys = keys + state.vector(op.bias, op.count)
    keys = np.where(np.isnan(keys), np.float32(-np.inf), keys)
    if op.num_groups > 1:
        keys = _in_best_groups(keys, op.num_groups, op.used_groups)
    chosen = _best(keys, op.used)
    weights: Floats = np.take_along_axis(probabilities, chosen, axis=1)
    if op.normalises:
        sums: Floats = np.maximum(weights.sum(axis=1, keepdims=True), SMALLEST_SUM)
        weights = weights / sums
    routes[:, : op.used] = chosen
    routes[:, op.used : 2 * op.used] = weights * np.float32(op.scale)


def _partial_routes(parity: int, slot: int, state: NumpyState) -> Floats:
    """A slot of the partial sums as [rows, row length of routes]."""
    shape = state.rows("routes").shape
    return state.partials[parity, slot, : shape[0] * shape[1]].reshape(shape)


def shared_routes(op: SharedRoutes, state: NumpyState) -> None:
    slots = (_partial_routes(op.parity, slot, state) for slot in range(state.num_partials))
    state.rows("routes")[:] = functools.reduce(np.add, slots)


def _probabilities(logits: Floats, gating: str) -> Floats:
    """Returns the experts' gates; for a softmax of the chosen ones they are not yet divided by a sum."""
    if gating == "sigmoid":
        return logistic(logits)
    exponentials: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials if gating != "softmax" else exponentials / exponentials.sum(axis=1, keepdims=True)


def _best(keys: Floats, count: int) -> Integers:
    """Returns the indices of the `count` largest keys of every row, the largest first."""
    return np.argsort(-keys, axis=1, kind="stable")[:, :count]


def _in_best_groups(keys: Floats, num_groups: int, used_groups: int) -> Floats:
    """Minus infinity outside the groups whose two best experts are the best."""
    grouped = keys.reshape(len(keys), num_groups, -1)
    scores = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, _best(scores, used_groups), True, axis=1)
    return np.where(chosen[:, :, None], grouped, -np.inf).reshape(keys.shape)


def expert_tiles(op: ExpertTiles, state: NumpyState) -> None:
    buffer, words = state.bytes["expert_tiles"].view(np.uint32), tile_words(op.pairs)
    tiles = buffer[: buffer.size // words * words].reshape(-1, words)
    tiles[:, 1] = 0
    num_before = 0
    for expert, pairs in _pairs_by_expert(op.held, state):
        first = num_before // op.pairs + expert
        for tile, start in enumerate(range(0, len(pairs), op.pairs), start=first):
            part = pairs[start : start + op.pairs]
            tiles[tile, :2] = expert, len(part)
            tiles[tile, 2 : 2 + op.pairs] = np.pad(part, (0, op.pairs - len(part)), "edge")
        num_before += len(pairs)


def _pairs_by_expert(held: HeldExperts, state: NumpyState) -> Iterator[tuple[int, Integers]]:
    """The experts among those held that have any, each with its pairs."""
    experts = state.rows("routes")[:, : held.used].astype(np.int64).reshape(-1) - held.first
    for expert in np.unique(experts):
        if 0 <= expert < held.count:
            yield int(expert), np.flatnonzero(experts == expert)


def expert_matmul(op: ExpertMatMul, state: NumpyState) -> None:
    """Multiplies each pair's row by its expert's matrix. Tiles of pairs make no difference here."""
    parts = state.matrices[op.matrix.name].reshape(-1, op.held.count, op.columns, op.matrix.columns)
    scales = biases = None
    if op.product_scales is not None:
        scales = state.vector(op.product_scales, len(parts) * op.held.count).reshape(
            len(parts), op.held.count
        )
    if op.bias is not None:
        biases = state.vector(op.bias, op.matrix.rows).reshape(-1, op.held.count, op.columns)
    used = op.held.used
    inputs = state.pairs(op.input, used) if op.by_pair else state.rows(op.input)
    outputs = state.pairs(op.output, used)[:, op.output_offset : op.output_offset + op.columns]
    weights = state.rows("routes")[:, used : 2 * used].reshape(-1, 1)
    for expert, pairs in _pairs_by_expert(op.held, state):
        rows, matrices = inputs[pairs if op.by_pair else pairs // used], [part[expert] for part in parts]
        if op.activations != "f32":
            rows = quantized.dequantize(rows.view(np.uint32), op.matrix.columns, op.activations)
        if op.activations == "f16":
            matrices = [as_float16(matrix) for matrix in matrices]
        products = [by_row(rows[:, : op.matrix.columns], matrix) for matrix in matrices]
        if scales is not None:
            products = [product * scale[expert] for product, scale in zip(products, scales, strict=True)]
        if op.weighs:
            products = [product * weights[pairs] for product in products]
        if biases is not None:
            products = [product + bias[expert] for product, bias in zip(products, biases, strict=True)]
        if op.onto_up:
            products.append(outputs[pairs])
        outputs[pairs] = _activated(products, op.activation)


def _activated(products: list[Floats], activation: str | None) -> Floats:
    """Returns the activated product of gate and up, or of one product alone."""
    if activation in GATED_ACTIVATION_FUNCTIONS:
        return GATED_ACTIVATION_FUNCTIONS[activation](*products)
    gate = products[0] if activation is None else ACTIVATION_FUNCTIONS[activation](products[0])
    return gate * products[1] if len(products) > 1 else gate


def expert_sum(op: ExpertSum, state: NumpyState) -> None:
    used = op.held.used
    output = state.partial(op.parity, state.write_slot)
    outputs, routes = state.pairs("expert_outputs", used), state.rows("routes")
    total = np.zeros_like(output)
    for choice in range(used) if op.held.count else ():
        is_held = (routes[:, choice] >= op.held.first) & (routes[:, choice] < op.held.first + op.held.count)
        weight = routes[is_held, used + choice, None] if op.weighs else np.float32(1)
        total[is_held] += weight * outputs[choice::used][is_held]
    total *= np.float32(op.scale)
    output[:] = output + total if op.accumulates else total


def row_gate(op: RowGate, state: NumpyState) -> None:
    logits = by_row(state.rows(op.input)[:, : op.width], state.vector(op.weight, op.width)[None])
    state.rows(op.values)[:, op.offset : op.offset + op.columns] *= logistic(logits)
