"""The push constants of each kernel: the other side of `struct Push` in shaders/*.slang.

A test compares the two, member by member.
"""

from __future__ import annotations

from ctypes import Structure, c_float, c_uint32

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.vulkan.push_constants.attention import (
    AttentionCombinePush,
    AttentionPush,
    ClampPush,
    CopyHeadsPush,
    HeadNormPush,
    HeadProductsPush,
    HeadSumsPush,
    RopeCachePush,
    RopeRowsPush,
)
from tplaunch.worker.vulkan.push_constants.experts import EXPERT_KERNELS, ExpertsPush
from tplaunch.worker.vulkan.push_constants.fields import WEIGHTS, Address, PairAddress, QuadAddress
from tplaunch.worker.vulkan.push_constants.recurrent import RECURRENT_KERNELS
from tplaunch.worker.vulkan.variants import FAMILIES, MATVECS, kernel_of

# What kernels that add up and normalise rows read and write.
NORM_PLACES = [
    ("step", Address),
    ("source", QuadAddress),
    ("addends", QuadAddress),
    ("weight", QuadAddress),
    ("bias", QuadAddress),
    ("hidden", QuadAddress),
    ("output", QuadAddress),
]


class SumNormPush(Structure):
    _fields_ = [
        *NORM_PLACES,
        ("num_addends", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("logit_rows", c_uint32),
        ("only_logit_rows", c_uint32),
        ("has_source", c_uint32),
        ("has_bias", c_uint32),
        ("stores_hidden", c_uint32),
        ("norm", c_uint32),
        ("width", c_uint32),
        ("inverse_width", c_float),
        ("epsilon", c_float),
    ]


class SumSlicePush(Structure):
    _fields_ = [
        ("step", Address),
        ("partials", QuadAddress),
        ("num_partials", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("rank", c_uint32),
    ]


class GatherPush(Structure):
    _fields_ = [
        ("step", Address),
        ("gathered", Address),
        ("words", PairAddress),
        ("stop", Address),
        ("exchange", Address),
        ("slot_stride", c_uint32),
        ("words_stride", c_uint32),
        ("row_length", c_uint32),
        ("rank", c_uint32),
        ("num_ranks", c_uint32),
        ("index", c_uint32),
        ("num_threads", c_uint32),
    ]


class MovePush(Structure):
    _fields_ = [
        ("step", Address),
        ("own", QuadAddress),
        ("shared", QuadAddress),
        ("slot_stride", c_uint32),
        ("row_length", c_uint32),
        ("rank", c_uint32),
        ("num_ranks", c_uint32),
        ("first_slot", c_uint32),
        ("skipped_slot", c_uint32),
        ("span", c_uint32),
    ]


class ExchangeNormPush(Structure):
    _fields_ = [
        *NORM_PLACES,
        ("gathered", Address),
        ("words", PairAddress),
        ("exchange", Address),
        ("num_addends", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("has_source", c_uint32),
        ("has_bias", c_uint32),
        ("stores_hidden", c_uint32),
        ("norm", c_uint32),
        ("width", c_uint32),
        ("rank", c_uint32),
        ("index", c_uint32),
        ("inverse_width", c_float),
        ("epsilon", c_float),
    ]


class QuantizePush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", QuadAddress),
        ("output", QuadAddress),
        ("scales", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("tiles", c_uint32),
        ("count_word", c_uint32),
        ("per_row", c_uint32),
    ]


class MatMulPush(Structure):
    _fields_ = [
        ("step", Address),
        *WEIGHTS,
        ("input", QuadAddress),
        ("input_scales", Address),
        ("output", Address),
        ("bias", Address),
        ("factors", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("columns", c_uint32),
        ("tiles", c_uint32),
        ("count_word", c_uint32),
        ("activation", c_uint32),
        ("flags", c_uint32),
        ("row_quads", c_uint32),
        ("scale", c_float),
        ("softcap", c_float),
    ]


class ActivatePush(Structure):
    _fields_ = [
        ("step", Address),
        ("gate_up", Address),
        ("divisors", Address),
        ("output", Address),
        ("columns", c_uint32),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("activation", c_uint32),
        ("gated", c_uint32),
        ("has_divisors", c_uint32),
    ]


class MultiplyAddsPush(Structure):
    _fields_ = [
        ("output", QuadAddress),
        ("rounds", c_uint32),
        ("factor", c_float),
        ("addend", c_float),
    ]


class MultiplyAddsDotPush(Structure):
    _fields_ = [
        ("output", QuadAddress),
        ("rounds", c_uint32),
        ("factor", c_uint32),
    ]


class MatricesMultiplyAddsPush(Structure):
    _fields_ = [
        ("output", Address),
        ("rounds", c_uint32),
        ("factor", c_float),
    ]


class LogitGroupsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("logits", Address),
        ("groups", Address),
        ("count", c_uint32),
        ("num_whole", c_uint32),
        ("num_groups", c_uint32),
    ]


FAMILY_PUSH_CONSTANTS = {
    **dict.fromkeys((*MATVECS, "tiled", "matrices"), MatMulPush),
    "grouped": ExpertsPush,
    "attention": AttentionPush,
    "gather": GatherPush,
    "exchange": ExchangeNormPush,
}
KERNELS: dict[str, type[Structure]] = {
    "sum_norm": SumNormPush,
    "quantize_q8": QuantizePush,
    "quantize_f16": QuantizePush,
    "sum_norm_64": SumNormPush,
    "sum_norm_1024": SumNormPush,
    "sum_slice": SumSlicePush,
    **dict.fromkeys(
        ("send_partials", "take_partials", "send_partials_rounded", "take_partials_rounded"), MovePush
    ),
    "logit_groups": LogitGroupsPush,
    "clamp_rows": ClampPush,
    "head_sums": HeadSumsPush,
    "head_norm": HeadNormPush,
    "rope_rows": RopeRowsPush,
    **{
        kernel_of(family, variant): FAMILY_PUSH_CONSTANTS[family.split("_")[0]]
        for family, variants in FAMILIES.items()
        for variant in variants
    },
    **{f"rope_cache_{kv_type}": RopeCachePush for kv_type in KV_TYPES},
    **EXPERT_KERNELS,
    "attention_combine": AttentionCombinePush,
    **{f"head_products_{name.lower()}": HeadProductsPush for name in FORMATS},
    "copy_heads": CopyHeadsPush,
    "activate": ActivatePush,
    "multiply_adds": MultiplyAddsPush,
    "multiply_adds_dot": MultiplyAddsDotPush,
    "matrices_multiply_adds": MatricesMultiplyAddsPush,
    **RECURRENT_KERNELS,
}
