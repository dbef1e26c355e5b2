"""Finds out from measurements which weight types are multiplied as fast by floats as by quantized numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection

from tplaunch.worker.measuring.measurements import Numbers, lowest
from tplaunch.worker.vulkan.variants import INTEGERS, MATVECS, SIZES, Right, measurement_name, usable


def quicker_as_floats(
    measured: Callable[[str], Numbers], features: Collection[str], right: Right
) -> frozenset[str]:
    """Returns the types whose products with floats take no longer, by all that was measured of both.

    Floats are not rounded, so they are as good as integers where they take as long.
    """

    def seconds(family: str, matrix_rows: int) -> float | None:
        numbers = measured(measurement_name(family, matrix_rows))
        order = [variant.suffix for variant in usable(family, features, right)]
        return numbers.get(lowest(numbers, order))

    found = []
    for name in INTEGERS:
        floats = integers = 0.0
        for family, matrix_rows in _families(name):
            both = seconds(family, matrix_rows), seconds(f"{family}_dot", matrix_rows)
            if both[0] is not None and both[1] is not None:
                floats, integers = floats + both[0], integers + both[1]
        if 0 < floats <= integers:
            found.append(name)
    return frozenset(found)


def _families(name: str) -> list[tuple[str, int]]:
    """The families of a type's products of generated rows, with matrix rows of each size."""
    sizes = [*SIZES.values(), max(SIZES.values()) + 1]
    kinds = [(kind, size) for kind in MATVECS for size in (sizes if kind == "matvec" else sizes[:1])]
    return [(f"{kind}_{name.lower()}", size) for kind, size in kinds]
