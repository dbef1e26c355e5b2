"""The push constants of the kernels of experts; otherwise as kernels.py."""

from __future__ import annotations

from ctypes import Structure, c_float, c_uint32

from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.experts import PROMPT_PAIRS, TILE_PAIRS
from tplaunch.worker.vulkan.push_constants.fields import WEIGHTS, Address, QuadAddress


class RoutePush(Structure):
    _fields_ = [
        ("step", Address),
        ("logits", Address),
        ("bias", Address),
        ("routes", Address),
        ("count", c_uint32),
        ("used", c_uint32),
        ("logits_stride", c_uint32),
        ("routes_stride", c_uint32),
        ("gating", c_uint32),
        ("normalises", c_uint32),
        ("by_logits", c_uint32),
        ("has_bias", c_uint32),
        ("num_groups", c_uint32),
        ("used_groups", c_uint32),
        ("scale", c_float),
    ]


class ExpertTilesPush(Structure):
    _fields_ = [
        ("step", Address),
        ("routes", Address),
        ("tiles", Address),
        ("routes_stride", c_uint32),
        ("used", c_uint32),
        ("first_expert", c_uint32),
        ("num_experts", c_uint32),
        ("num_tiles", c_uint32),
    ]


class ExpertsPush(Structure):
    _fields_ = [
        ("step", Address),
        *WEIGHTS,
        ("input", QuadAddress),
        ("output", Address),
        ("bias", Address),
        ("factors", Address),
        ("tiles", Address),
        ("routes", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("columns", c_uint32),
        ("row_tiles", c_uint32),
        ("used", c_uint32),
        ("routes_stride", c_uint32),
        ("experts", c_uint32),
        ("flags", c_uint32),
    ]


class ExpertSumPush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", QuadAddress),
        ("output", QuadAddress),
        ("routes", Address),
        ("row_stride", c_uint32),
        ("routes_stride", c_uint32),
        ("used", c_uint32),
        ("first_expert", c_uint32),
        ("num_experts", c_uint32),
        ("weighs", c_uint32),
        ("accumulates", c_uint32),
        ("scale", c_float),
    ]


class RowGatePush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", QuadAddress),
        ("weight", QuadAddress),
        ("values", Address),
        ("quads", c_uint32),
        ("input_stride", c_uint32),
        ("columns", c_uint32),
        ("stride", c_uint32),
    ]


# The kernels that make tiles, by the pairs of a tile.
EXPERT_TILES = {TILE_PAIRS: "expert_tiles", PROMPT_PAIRS: "expert_tiles_64"}
EXPERT_KERNELS: dict[str, type[Structure]] = {
    "route": RoutePush,
    **dict.fromkeys(EXPERT_TILES.values(), ExpertTilesPush),
    "expert_sum": ExpertSumPush,
    "row_gate": RowGatePush,
    **{
        f"experts_{name.lower()}{kind}_{pairs}{suffix}": ExpertsPush
        for name, weight_format in FORMATS.items()
        for kind in ("", "_dot")[: 1 + weight_format.has_integers]
        for pairs in (1, TILE_PAIRS)
        for suffix in ("", "_wide")
    },
}
