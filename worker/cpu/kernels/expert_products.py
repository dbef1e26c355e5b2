"""Products of rows with their experts' matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from tplaunch.worker.cpu.integer_layout import FORMS
from tplaunch.worker.cpu.kernels.activations import activated, activated_gate
from tplaunch.worker.cpu.kernels.arranged import arrange_all
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.expert_pairs import group_pairs
from tplaunch.worker.cpu.kernels.integer_products import integer_products_of
from tplaunch.worker.cpu.kernels.matrices import products_of
from tplaunch.worker.cpu.kernels.spans import own_groups
from tplaunch.worker.cpu.kernels.tiles import GROUP
from tplaunch.worker.cpu.kernels.vectors import (
    load,
    number,
    plus,
    spread,
    times,
    unsigned,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
BLOCK = 16  # columns whose products are finished at once, one vector of each pair
HALF_BYTES = 4 * BLOCK  # of a pair's products with gates, behind which those with ups are


def multiply(weight_type: str) -> Callable[..., None]:
    """Makes the kernel of a weight type for rows of float32.

    Pairs are grouped by expert, so that those of one share its widened rows: a thread has `lists_bytes` bytes
    for where each expert's begin, their numbers, and those of their inputs. In its `products_bytes` bytes are
    `BLOCK` products with gates of each pair of one expert, and as many with ups.
    """
    of_rows = products_of(weight_type)

    @inlined
    def arranged_rows(x: int, x_stride: int, inputs: int, count: int, columns: int, room: int) -> int:
        return x

    @inlined
    def of_block(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        tiles: int,
        first: int,
        stop: int,
        x: int,
        x_stride: int,
        inputs: int,
        products: int,
        count: int,
        own: int,
        widened_rows: int,
    ) -> None:
        of_rows(
            p0,
            p1,
            p2,
            p3,
            tiles,
            first,
            stop,
            x,
            x_stride,
            inputs,
            products,
            2 * HALF_BYTES,
            0,
            count,
            own,
            widened_rows,
        )

    return _kernel(arranged_rows, of_block)


def multiply_integers(weight_type: str) -> Callable[..., None]:
    """Makes the same for rows in eight bits, which a thread arranges in its `arranged_bytes` bytes."""
    of_rows, form = integer_products_of(weight_type), FORMS[weight_type]
    zero, is_signed, scales = form.zero, int(form.is_signed), form.scales

    @inlined
    def arranged_rows(x: int, x_stride: int, inputs: int, count: int, columns: int, room: int) -> int:
        arrange_all(x, x_stride, inputs, count, columns, room, zero, is_signed, scales)
        return room

    @inlined
    def of_block(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        tiles: int,
        first: int,
        stop: int,
        x: int,
        x_stride: int,
        inputs: int,
        products: int,
        count: int,
        own: int,
        widened_rows: int,
    ) -> None:
        of_rows(p0, p1, p2, p3, tiles, first, stop, x, products, 2 * HALF_BYTES, 0, count, own, 1)

    return _kernel(arranged_rows, of_block)


def _kernel(arranged_rows: Any, of_block: Any) -> Callable[..., None]:
    """Makes a kernel of what a thread makes of an expert's rows, and products of these with some columns."""

    def kernel(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        x: int,
        x_stride: int,
        by_pair: int,
        y: int,
        y_stride: int,
        num_rows: int,
        routes: int,
        routes_stride: int,
        used: int,
        first_expert: int,
        num_experts: int,
        columns: int,
        tiles: int,
        row_columns: int,
        gated: int,
        onto_up: int,
        weighs: int,
        scales: int,
        bias: int,
        activation: int,
        scratch: int,
        scratch_bytes: int,
        widened_rows: int,
        lists: int,
        lists_bytes: int,
        products: int,
        products_bytes: int,
        arranged: int,
        arranged_bytes: int,
        thread: int,
        num_threads: int,
    ) -> None:
        num_pairs = unsigned(num_rows) * used
        own, found = scratch + thread * scratch_bytes, products + thread * products_bytes
        places = lists + thread * lists_bytes
        pairs = places + 4 * (num_experts + 2)
        inputs = pairs + 4 * num_pairs
        group_pairs(routes, routes_stride, num_pairs, used, first_expert, num_experts, by_pair, places)
        first, stop = own_groups(columns, GROUP, thread, num_threads)
        for expert in range(num_experts):
            start = unsigned(places + 4 * expert)
            count = unsigned(places + 4 * expert + 4) - start
            block = first if count > 0 else stop
            own_inputs, own_x = inputs + 4 * start, x
            if block < stop:
                room = arranged + thread * arranged_bytes
                own_x = arranged_rows(x, x_stride, own_inputs, count, row_columns, room)
            while block < stop:
                width = min(BLOCK, stop - block)
                for half in range(1 + gated):
                    row = (half * num_experts + expert) * columns + block
                    of_block(
                        p0,
                        p1,
                        p2,
                        p3,
                        tiles,
                        row,
                        row + width,
                        own_x,
                        x_stride,
                        own_inputs,
                        found + half * HALF_BYTES,
                        count,
                        own,
                        widened_rows,
                    )
                for index in range(count):
                    pair = unsigned(pairs + 4 * (start + index))
                    weight = 1.0
                    if weighs != 0:
                        route = routes + pair // used * routes_stride
                        weight = number(route + 4 * (used + pair % used))
                    at, out = found + 2 * HALF_BYTES * index, y + pair * y_stride + 4 * block
                    gate = _finished(
                        load(at), weighs, weight, scales, bias, expert, expert * columns + block, width
                    )
                    if gated != 0:
                        ups = num_experts + expert
                        up = _finished(
                            load(at + HALF_BYTES),
                            weighs,
                            weight,
                            scales,
                            bias,
                            ups,
                            ups * columns + block,
                            width,
                        )
                        store_part(out, activated_gate(activation, gate, up), width)
                    elif onto_up != 0:
                        store_part(out, activated_gate(activation, gate, load_part(out, width)), width)
                    else:
                        store_part(out, activated(activation, gate), width)
                block += width

    return kernel


@inlined
def _finished(
    product: Any, weighs: int, weight: float, scales: int, bias: int, part: int, row: int, width: int
) -> Any:
    """Returns products times a part's scale and the pair's weight, plus the bias."""
    if scales != 0:
        product = times(product, spread(number(scales + 4 * part)))
    if weighs != 0:
        product = times(product, spread(weight))
    if bias != 0:
        product = plus(product, load_part(bias + 4 * row, width))
    return product
