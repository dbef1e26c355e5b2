"""All that there are kernels for: what `tplaunch check` runs, model or no model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.model.experts import GATINGS
from tplaunch.worker.checking.table import ROWS, SmallOp, small_op
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS, GATED_ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.attention import (
    MATRIX_KV_TYPES,
    Alibi,
    Attention,
    AttentionCombine,
    AttentionHeads,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
    Rotation,
    RowSums,
    fits_matrices,
)
from tplaunch.worker.ops.common import Activate, GatherNorm, MatMul, Op, Quantize, SumNorm, SumSlice
from tplaunch.worker.ops.exchange import Gather, MovePartials
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
)
from tplaunch.worker.ops.latent import CopyHeads, HeadParts, HeadProducts
from tplaunch.worker.ops.logits import LogitGroups
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.recurrent import (
    Convolution,
    GatedNorm,
    Recurrence,
    RecurrentHeads,
    SquareSums,
    UnitNorm,
)

HEAD_LENGTHS = ((64, 64), (128, 128), (256, 256), (80, 96), (192, 128))  # of keys and of values
LONG_HEAD = (576, 512)  # whose values are the first elements of keys
GROUPS = (1, 3, 4, 7)  # heads of a KV head
HELD = HeldExperts(used=3, first=1, count=5)
HEADS = (AttentionHeads(5, 2, 64, 64), AttentionHeads(4, 1, 128, 256), AttentionHeads(3, 2, 80, 80))
HEAD_PARTS = HeadParts("input", 1)  # the checks have places of their own
# What attention may do beside its sums.
SPECIAL: tuple[dict[str, Any], ...] = (
    {"finish": AttentionCombine(9, 128, 0)},
    {"finish": AttentionCombine(9, 128, 0, "sinks")},
    {"window": 300},
    {"window": 300, "chunked": True},
    {"softcap": 30.0},
    {"alibi": Alibi(8.0, 1, 12)},
    {"first_head": 2},
)


def every_op(features: Collection[str], has_matrices: bool) -> list[SmallOp]:
    """All that a device with these features runs."""
    found: dict[SmallOp, None] = {}
    for op in (*_rows(), *_heads(), *_experts(), *_recurrent()):
        found[small_op(op, "f32", ROWS)] = None
    for (op, kv_type), rows in product(_cached(), (1, ROWS)):
        found[small_op(op, kv_type, rows)] = None
    for kv_type in MATRIX_KV_TYPES if has_matrices else ():
        found |= dict.fromkeys(small_op(op, kv_type, ROWS) for op in _by_matrices())
    for (op, activations), rows in product(_products(), (1, 2, ROWS)):
        runs_here = {
            "f32": True,
            "q8": "integer_dot_product" in features,
            "f16": has_matrices and rows == ROWS,
        }
        if runs_here[activations]:
            found[small_op(op, "f32", rows)] = None
    return list(found)


def _rows() -> Iterator[Op]:
    for norm, bias in product(("rms", "layer"), (None, "bias")):
        yield SumNorm("embedding", "weight", 1, 1e-5, "output", "rows", norm=norm, bias=bias)
        yield SumNorm("hidden", "weight", 1, 1e-5, "output", "rows", "partials", 1, norm, bias)
        yield SumNorm("hidden", "weight", 1, 1e-5, "output", "logit_rows", "partials", 1, norm, bias)
        yield SumNorm(None, "weight", 1, 1e-5, "output", "rows", "block", norm=norm, bias=bias)
    yield SumNorm("hidden", None, 1, 1e-5, "output", "rows", "block")
    yield SumNorm("hidden", "weight", 1, 1e-5, "output", "rows", "partials", 1, summed=True)
    yield SumSlice(1, 0)
    yield LogitGroups(1)
    yield Gather(1, 0, 1)
    yield Gather(1, 32, 1)
    for norm, source in product(("rms", "layer"), ("hidden", None)):
        of_sums = SumNorm(source, "weight", 1, 1e-5, "output", "rows", "partials", 1, norm, "bias")
        yield GatherNorm(Gather(1, 0, 1), of_sums)
    yield GatherNorm(Gather(1, 0, 1), SumNorm("hidden", None, 1, 1e-5, "output", "rows", "partials", 1))
    for wire in ("f32", "bf16"):
        yield MovePartials(1, True, "own", "rest", 0, wire)
        yield MovePartials(1, False, "peers", "slice", 0, wire)
        yield MovePartials(1, False, "peers", "all", 32, wire)
    yield MovePartials(1, True, "sum", "slice")
    yield MovePartials(1, False, "sum", "rest")
    yield from (Quantize("input", 32, "rows", activations) for activations in ("q8", "f16"))
    yield from (Quantize("input", 32, "rows", activations, used=3) for activations in ("q8", "f16"))
    for activation in ACTIVATION_FUNCTIONS:
        yield Activate(1, 0, activation)
        yield Activate(1, 0, activation, False, "divisors")


def _heads() -> Iterator[Op]:
    yield Clamp(4, 0.75)
    yield CopyHeads(1, 1, HEAD_PARTS, HEAD_PARTS)
    for heads in HEADS:
        yield HeadSums(heads, True, 1)
        for kind, stride in product(("rms", "layer"), (0, heads.key_length)):
            bias = "bias" if kind == "layer" else None
            yield HeadNorm(heads, 1e-6, "weight", "weight", kind, stride, bias, bias)
        yield HeadNorm(heads, 1e-6, None, None, sums=RowSums(1, 1, 1))
        yield from (Rotate(heads, rotation) for rotation in _rotations(heads))
    for value_length, (sinks, gated) in product((64, 256), ((None, False), ("sinks", False), (None, True))):
        yield AttentionCombine(5, value_length, 0, sinks, gated)


def _rotations(heads: AttentionHeads) -> Iterator[Rotation]:
    """Yields rotations of whole heads, and of parts of them."""
    yield Rotation(0, heads.key_length)
    yield Rotation(0, heads.key_length // 2, interleaved=True, start=heads.key_length // 4)


def _cached() -> Iterator[tuple[Op, str]]:
    """Yields the ops that have kernels for every type of the KV cache, with each type."""
    for kv_type in KV_TYPES:
        for heads in HEADS:
            for rotation in _rotations(heads):
                yield RopeCache("keys", "values", heads, heads.key_length, rotation, 0), kv_type
            yield RopeCache("keys", "keys", heads, 0, Rotation()), kv_type
        for (key_length, value_length), group in product(HEAD_LENGTHS, GROUPS):
            yield Attention("keys", "values", 9, 9, 0, group, key_length, value_length, 1), kv_type
        for special in SPECIAL:
            yield _attention(special), kv_type
        yield Attention("keys", "keys", 9, 1, 0, 9, *LONG_HEAD, 1), kv_type


def _attention(special: Mapping[str, Any]) -> Attention:
    plain = {"first_head": 0, "heads_per_kv_head": 4, "key_length": 128, "value_length": 128}
    return Attention("keys", "values", 9, 9, scale=1, **{**plain, **special})


def _by_matrices() -> Iterator[Attention]:
    """Yields attention of rows of prompts by cooperative matrices."""
    yield from (_attention({**special, "activations": "f16"}) for special in SPECIAL)
    for (key_length, value_length), group in product(HEAD_LENGTHS, GROUPS):
        if fits_matrices(key_length, value_length):
            yield Attention("keys", "values", 9, 9, 0, group, key_length, value_length, 1, activations="f16")


def _products() -> Iterator[tuple[Op, str]]:
    """Products with every weight type, and the activations that they get."""
    for name, weight_format in FORMATS.items():
        kinds = {"f32": True, "q8": weight_format.has_integers, "f16": weight_format.fits_float16}
        for activations in (kind for kind, is_possible in kinds.items() if is_possible):
            for op in _products_with(Matrix("matrix", name, 1, 32), activations):
                yield op, activations
        yield HeadProducts(Matrix("matrix", name, 1, 32), 1, HEAD_PARTS, HEAD_PARTS), "f32"
        kinds_of_tiles = [(tiled, False, kind) for tiled in (False, True) for kind in ("f32", "q8")]
        if name in GROUPED:
            kinds_of_tiles += [(True, True, kind) for kind in kinds]
        for tiled, of_prompts, activations in kinds_of_tiles:
            if not kinds[activations]:
                continue
            for op in _expert_products(Matrix("matrix", name, 1, 32), tiled, of_prompts, activations):
                yield op, activations


def _products_with(matrix: Matrix, activations: str) -> Iterator[Op]:
    """Each thing that may follow a product, some together."""

    def matmul(output: str = "output", bias: str | None = None, rows: str = "rows", **others: object) -> Op:
        return MatMul(matrix, bias, "input", output, 0, rows, activations=activations, **others)  # type: ignore[arg-type]

    yield matmul()
    if activations != "f16":
        yield matmul(activation="silu", gated=True, bias="bias", of_prompts=True)
    yield matmul("partials", parity=1, scale=0.25, accumulates=True)
    yield matmul(bias="bias", activation="gelu")
    yield matmul(activation="silu", gated=True, product_scales="product_scales")
    yield matmul(rows="logit_rows", scale=0.5, softcap=30.0)


def _expert_products(matrix: Matrix, tiled: bool, of_prompts: bool, activations: str) -> Iterator[Op]:
    yield ExpertMatMul(
        matrix,
        None,
        "input",
        "output",
        0,
        1,
        HELD,
        tiled=tiled,
        activation="silu",
        gated=True,
        of_prompts=of_prompts,
        activations=activations,
    )
    yield ExpertMatMul(
        matrix,
        "bias",
        "input",
        "output",
        0,
        1,
        HELD,
        True,
        tiled,
        weighs=True,
        product_scales="product_scales",
        of_prompts=of_prompts,
        activations=activations,
    )


def _experts() -> Iterator[Op]:
    for gating, bias, (groups, used) in product(GATINGS, (None, "bias"), ((1, 1), (4, 2))):
        yield Route(64, 6, gating, True, 2.5, groups, used, bias)
    yield Route(512, 10, "softmax", False, 1.0, 1, 1, None, parity=1)
    yield SharedRoutes(1)
    yield from (ExpertTiles(HELD, pairs) for pairs in (TILE_PAIRS, PROMPT_PAIRS))
    yield from (ExpertSum(HELD, 1, 0.5, weighs=on, accumulates=on) for on in (False, True))
    yield RowGate("weight", 1, "input", "values", 0, 1)
    for activation in (*ACTIVATION_FUNCTIONS, *GATED_ACTIVATION_FUNCTIONS):
        matrix = Matrix("matrix", "F32", 1, 32)
        yield ExpertMatMul(
            matrix, "bias", "input", "output", 0, 1, HELD, tiled=True, activation=activation, gated=True
        )
    yield ExpertMatMul(matrix, None, "input", "output", 0, 1, HELD, activation="silu", onto_up=True)


def _recurrent() -> Iterator[Op]:
    for kernel in (3, 4):
        yield Convolution("weight", 32, "bias", "state", "output", 0, 1, kernel, gated=False)
        yield Convolution("weight", 32, None, "state", "output", 0, 1, kernel, gated=True)
    yield UnitNorm(1, 128, 1e-6)
    for delta, (divisor, modulus) in product((False, True), ((1, 2), (2, 2))):
        heads = RecurrentHeads(4, 1, divisor, modulus, 2, 0, 128, 128)
        yield Recurrence(delta, heads, "decay_rate", "time_bias", None if delta else "skip", "state", 0)
    yield SquareSums(5, 1, 64, 2, 3, 0, 1)
    for stride, gate_first in product((0, 128), (False, True)):
        yield GatedNorm("weight", stride, 5, 1, 128, 1, 1e-5, gate_first, 0, 0)
    yield GatedNorm("weight", 128, 5, 1, 64, 2, 1e-5, True, 0, 0, parity=1)
