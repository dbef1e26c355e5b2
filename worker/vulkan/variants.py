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
from tplaunch.worker.ops.attention import MATRIX_HEADS, MATRIX_KV_TYPES
from tplaunch.worker.ops.experts import GROUPED


@dataclass(frozen=True)
class Variant:
    """A way to run a family's ops: by the kernel named like the family and the suffix, or by `kernel`."""

    suffix: str
    needs: tuple[str, ...] = ()  # of PhysicalDevice.features
    # Rows and columns that a subgroup computes at once: multiply<...> in shaders/matvec.slang. More of them
    # read activations and weights less often, fewer give a large GPU more workgroups. Of a gated product
    # half the columns are the ups of the others, so there are two at least.
    tile: tuple[int, int] = (1, 1)
    kernel: tuple[str, str] | None = None  # which kind of family the kernel is of, and its suffix there
    prefetches: bool = False  # touches the lines of its weights beforehand
    # From so many columns of a matrix on all subgroups of a workgroup compute its tile together, each of them
    # some of these: shaders/split.slang. 0: each computes a tile of its own.
    split_from: int = 0
    rows_from: int = 0  # rows of the programs that it is for: of fewer it computes most of its tile in vain

    @property
    def is_wide(self) -> bool:
        """Tells if it loads 64 bits at a time."""
        return "int64" in self.needs


def kernel_of(family: str, variant: Variant) -> str:
    """The kernel that a variant of a family runs."""
    kind, _, weights = family.partition("_")
    own = kind, variant.suffix
    kind, suffix = variant.kernel or own
    return f"{kind}_{weights}{suffix}"


def _matvec(kind: str, rows: int, name: str = "") -> tuple[Variant, ...]:
    """The kernels of one kind that compute eight columns at once; `name` tells them from a family's own."""
    tile = rows, 8
    return (
        Variant(f"{name}_wide_prefetch", ("cpu", "int64"), tile, (kind, "_wide"), prefetches=True),
        Variant(f"{name}_wide", ("int64",), tile, (kind, "_wide")),
        Variant(f"{name}_prefetch", ("cpu",), tile, (kind, ""), prefetches=True),
        Variant(name, (), tile, (kind, "")),
    )


# Kinds of products by the most rows of their programs; the last one is for all with more.
MATVECS = {"matvec": 1, "matvec2": 2, "matvec4": 4}
EIGHT_COLUMNS = {
    "matvec": _matvec("matvec", 1),
    # Four rows at once take a device that waits for memory no longer than two.
    "matvec2": (*_matvec("matvec2", 2), *_matvec("matvec4", 4, "_4x8")),
    "matvec4": _matvec("matvec4", 4),
}
NARROW = tuple(
    Variant(f"_1x{columns}{suffix}", needs, (1, columns))
    for columns in (4, 2)
    for suffix, needs in (("_wide", ("int64",)), ("", ()))
)
# Of one row in few columns by a whole workgroup, for matrices of few rows on large GPUs: by weight type how
# many columns, and the workgroup's invocations, which then have 4,096 input columns at once.
SPLIT_TILES = {
    **dict.fromkeys(("F32", "F16", "BF16", "Q8_0"), (4, 256)),
    **dict.fromkeys(("Q4_0", "Q4_K", "Q5_K", "Q6_K"), (2, 128)),
}
SPLIT_FROM = 2048  # of fewer columns most of a workgroup would have none
SPLIT = {
    name: tuple(
        Variant(f"_split{suffix}", ("card", *needs), (1, columns), split_from=SPLIT_FROM)
        for suffix, needs in (("_wide", ("int64",)), ("", ()))
    )
    for name, (columns, _) in SPLIT_TILES.items()
}
# Of prompts: through a workgroup's memory, where a tile is a workgroup's (shaders/tiled_floats.slang and
# tiled_dots.slang), and floats without it where subgroups have eight lanes (shaders/tiled_lanes.slang).
LANES = ("eight_lanes", "int64", "subgroup_shuffle")
FEW_ROWS_BY_LANES = Variant("_4x8", LANES, (4, 64))
TILED = (
    Variant("_16x4", LANES, (16, 32), rows_from=16),
    FEW_ROWS_BY_LANES,
    Variant("", (), (128, 128)),
    Variant("_64", (), (64, 64)),
)
TILED_DOTS = (Variant("", (), (128, 128)), Variant("_64", (), (64, 64)))
TILE_ROWS = max(variant.tile[0] for variant in TILED)  # of a prompt, that a card multiplies at once
# By the invocations of a workgroup: 256, 64, 1024.
EXCHANGE_NORMS = ("exchange_norm", "exchange_norm_64", "exchange_norm_1024")
# The same of pairs that are grouped by expert.
GROUPED_DOTS = (Variant("", (), (64, 64)),)
GROUPED_TILES = (FEW_ROWS_BY_LANES, *GROUPED_DOTS)
# The same by cooperative matrices, whose sums have other bits.
OF_MATRICES = ("cooperative_matrix",)
MATRICES = (Variant("", OF_MATRICES, (128, 128)), Variant("_64", OF_MATRICES, (64, 64)))
GROUPED_MATRICES = (Variant("", OF_MATRICES, (64, 128)), Variant("_64", OF_MATRICES, (64, 64)))
PLAIN, WIDE = Variant(""), Variant("_wide", ("int64",))
ATTENTION = {"f32": (PLAIN,), "f16": (WIDE, PLAIN), "q8_0": (WIDE, PLAIN)}
# Of rows of prompts, by cooperative matrices.
MATRIX_ATTENTION = tuple(
    f"attention_matrices_{kv_type}_{length}" for kv_type in MATRIX_KV_TYPES for length in MATRIX_HEADS
)
VECTOR_COUNTS = (1, 3, ATTENTION_VECTORS)  # that attention is compiled for; fewer are for a single row
# Weight types that most models are made of: only for these there are kernels of fewer columns.
FREQUENT = tuple(SPLIT)
ONE_ROW = {name: NARROW + split for name, split in SPLIT.items()}
INTEGERS = [name for name, weight_format in FORMATS.items() if weight_format.has_integers]
# Of each family in the order of preference where nothing was measured, or two are about as fast.
FAMILIES: dict[str, tuple[Variant, ...]] = {
    **{
        f"{kind}_{name.lower()}": variants + (ONE_ROW.get(name, ()) if kind == "matvec" else ())
        for kind, variants in EIGHT_COLUMNS.items()
        for name in FORMATS
    },
    **{f"{kind}_{name.lower()}_dot": EIGHT_COLUMNS[kind] for kind in MATVECS for name in INTEGERS},
    **{f"tiled_{name.lower()}": TILED if name in FREQUENT else TILED[:3] for name in FORMATS},
    **{f"tiled_{name.lower()}_dot": TILED_DOTS if name in FREQUENT else TILED_DOTS[:1] for name in INTEGERS},
    **{
        f"matrices_{name.lower()}": MATRICES if name in FREQUENT else MATRICES[:1]
        for name, weight_format in FORMATS.items()
        if weight_format.fits_float16
    },
    **{f"grouped_{name.lower()}": GROUPED_TILES for name in GROUPED},
    **{f"grouped_{name.lower()}_dot": GROUPED_DOTS for name in GROUPED if name in INTEGERS},
    **{
        f"matrices_{name.lower()}_grouped": GROUPED_MATRICES for name in GROUPED if FORMATS[name].fits_float16
    },
    **{f"attention_{kv_type}_{count}": ATTENTION[kv_type] for kv_type in KV_TYPES for count in VECTOR_COUNTS},
    **{f"attention_long_{kv_type}": ATTENTION[kv_type] for kv_type in KV_TYPES},
    **dict.fromkeys(("gather_partials", *EXCHANGE_NORMS), (WIDE, PLAIN)),
    # Other bits than those of the kernels above: a device has these, or the others.
    **{f"attention_teams_{kv_type}_{count}": (PLAIN,) for kv_type in KV_TYPES for count in VECTOR_COUNTS},
    **dict.fromkeys(MATRIX_ATTENTION, (Variant("", OF_MATRICES),)),
}


def matvec_kind(num_rows: int) -> str:
    """The kind of products of a program of so many rows."""
    return next((kind for kind, most in MATVECS.items() if num_rows <= most), "matvec4")


PROMISED_INVOCATIONS = 128  # of a workgroup, by Vulkan
# Kernels and kinds of kernels whose workgroups have more; a device may have fewer than they need.
LARGE_WORKGROUPS = {
    **{"sum_norm": 256, "sum_norm_1024": 1024, "tiled": 256, "matrices": 256},
    **dict.fromkeys(("exchange_norm", "exchange_norm_wide", *MATRIX_ATTENTION), 256),
    **dict.fromkeys(("exchange_norm_1024", "exchange_norm_1024_wide"), 1024),
    **{
        f"matvec_{name.lower()}{variant.suffix}": invocations
        for name, (_, invocations) in SPLIT_TILES.items()
        for variant in SPLIT[name]
    },
}


def needed_invocations(kernel: str) -> int:
    """Returns how many invocations of a workgroup a device must have for a kernel, by its name or kind."""
    by_kind = LARGE_WORKGROUPS.get(kernel.partition("_")[0], PROMISED_INVOCATIONS)
    return LARGE_WORKGROUPS.get(kernel, by_kind)


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

    def variant(
        self, family: str, matrix_rows: int = 0, matrix_columns: int = 0, program_rows: int = 0
    ) -> Variant:
        """Returns a family's variant for a matrix: the preferred one, unless all variants were measured."""
        found = usable(family, self._features, self._right)
        fitting = [
            variant
            for variant in found
            if matrix_columns >= variant.split_from and program_rows >= variant.rows_from
        ] or found
        variants = {variant.suffix: variant for variant in fitting}
        numbers = self._measured(measurement_name(family, matrix_rows))
        return variants[lowest(numbers, list(variants))]


@dataclass(frozen=True)
class Always:
    """Selects one variant, whatever for."""

    chosen: Variant

    def variant(
        self, family: str, matrix_rows: int = 0, matrix_columns: int = 0, program_rows: int = 0
    ) -> Variant:
        """The same for every family."""
        return self.chosen
