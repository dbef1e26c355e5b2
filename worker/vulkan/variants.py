"""The variants of each kernel family: what a device needs for them, and which one it runs.

All variants of a family compute the same bits, so that a measurement may choose among them
(worker/vulkan/measuring/tuning.py). What computes other bits is another family, and for the user to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.buffers.step import ATTENTION_VECTORS
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.measuring.measurements import Numbers, lowest


@dataclass(frozen=True)
class Variant:
    """One of a family's kernels. It is called like the family, with the suffix."""

    suffix: str
    needs: tuple[str, ...] = ()  # of coordinator.options.FEATURES
    # Rows and columns that a subgroup computes at once, or a workgroup of tiled kernels. More of them
    # read activations and weights less often, fewer give a large GPU more workgroups. Of a gated product
    # half the columns are the ups of the others, so there are two at least.
    tile: tuple[int, int] = (1, 1)


MATVEC = (
    Variant("_wide", ("int64",), tile=(1, 8)),
    Variant("", tile=(1, 8)),
    Variant("_1x2", tile=(1, 2)),
)
MATMUL = (
    Variant("_wide", ("int64",), tile=(4, 8)),
    Variant("", tile=(4, 8)),
)
# Where subgroups have eight lanes: shaders/matmul_lanes.slang. One row and several have the same bits.
LANES = ("eight_lanes", "int64")
MATVEC_LANES = (
    Variant("_1x4", LANES, tile=(1, 32)),
    Variant("_1x8", LANES, tile=(1, 64)),
    Variant("_1x2", LANES, tile=(1, 16)),
)
MATMUL_LANES = (
    Variant("_4x8", LANES, tile=(4, 64)),
    Variant("_8x4", LANES, tile=(8, 32)),
)
# Of prompts, through a workgroup's memory: shaders/tiled_floats.slang. Here a tile is a workgroup's.
TILED = (Variant("", tile=(128, 128)), Variant("_64", tile=(64, 64)))
TILED_INVOCATIONS = 256  # of a workgroup
PLAIN, WIDE = Variant(""), Variant("_wide", ("int64",))
ATTENTION = {"f32": (PLAIN,), "f16": (WIDE, PLAIN), "q8_0": (WIDE, PLAIN)}
VECTOR_COUNTS = (1, 3, ATTENTION_VECTORS)  # that attention is compiled for; fewer are for a single row
# Weight types that most models are made of: only for these there are kernels of all tiles.
FREQUENT = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")
INTEGERS = [name for name, weight_format in FORMATS.items() if weight_format.has_integers]
# Of each family in the order of preference where nothing was measured, or two are about as fast.
FAMILIES: dict[str, tuple[Variant, ...]] = {
    **{f"matvec_{name.lower()}": MATVEC if name in FREQUENT else MATVEC[:2] for name in FORMATS},
    **{f"matmul_{name.lower()}": MATMUL for name in FORMATS},
    **{f"matvec_{name.lower()}_lanes": MATVEC_LANES[: 3 if name in FREQUENT else 1] for name in FORMATS},
    **{f"matmul_{name.lower()}_lanes": MATMUL_LANES[: 2 if name in FREQUENT else 1] for name in FORMATS},
    **{f"tiled_{name.lower()}": TILED[: 2 if name in FREQUENT else 1] for name in FORMATS},
    **{f"matvec_{name.lower()}_dot": MATVEC[:2] for name in INTEGERS},
    **{f"matmul_{name.lower()}_dot": MATMUL for name in INTEGERS},
    **{f"attention_{kv_type}_{count}": ATTENTION[kv_type] for kv_type in KV_TYPES for count in VECTOR_COUNTS},
    **{f"attention_long_{kv_type}": ATTENTION[kv_type] for kv_type in KV_TYPES},
}


def tiles_prompts(features: Collection[str], max_invocations: int) -> bool:
    """Tells if a device multiplies rows of prompts tile by tile, in another order than it does others."""
    return max_invocations >= TILED_INVOCATIONS and not set(LANES) <= set(features)


# How many rows a matrix has decides how many workgroups a product with one row gets.
SIZES = {"small": 1024, "medium": 4096}


def size_of(matrix_rows: int) -> str:
    """Returns the size class of a matrix, by which a kernel is chosen."""
    return next((size for size, limit in SIZES.items() if matrix_rows <= limit), "large")


def measurement_name(family: str, matrix_rows: int) -> str:
    """Under which the variants of a family were measured for a matrix like this."""
    return f"{family} {size_of(matrix_rows)}" if family.startswith("matvec_") else family


def candidates(family: str, features: Collection[str]) -> tuple[Variant, ...]:
    """The variants that run on a device with these features, the preferred one first."""
    return tuple(variant for variant in FAMILIES[family] if all(need in features for need in variant.needs))


Right: TypeAlias = Mapping[str, Collection[str]]  # families that were checked -> the variants found right


def usable(family: str, features: Collection[str], right: Right) -> tuple[Variant, ...]:
    """The candidates that were found right; of a family that was not checked, all."""
    found = candidates(family, features)
    return tuple(variant for variant in found if variant.suffix in right.get(family, (variant.suffix,)))


class Selection:
    """Selects the variants that a device runs: of each family the fastest that was measured."""

    def __init__(
        self,
        features: Collection[str],
        measured: Callable[[str], Numbers] | None = None,
        right: Right | None = None,
    ) -> None:
        self._features, self._measured = features, measured or (lambda name: {})
        self._right = right or {}

    def offers(self, family: str) -> bool:
        """Tells if any of a family's variants runs on the device."""
        return bool(usable(family, self._features, self._right))

    def variant(self, family: str, matrix_rows: int = 0) -> Variant:
        """Returns a family's variant for a matrix: the preferred one, unless all variants were measured."""
        variants = {variant.suffix: variant for variant in usable(family, self._features, self._right)}
        numbers = self._measured(measurement_name(family, matrix_rows))
        return variants[lowest(numbers, list(variants))]


@dataclass(frozen=True)
class Always:
    """Selects one variant, whatever for."""

    chosen: Variant

    def offers(self, family: str) -> bool:
        """Tells if it is of this family."""
        return self.chosen in FAMILIES[family]

    def variant(self, family: str, matrix_rows: int = 0) -> Variant:
        """The same for every family."""
        return self.chosen
