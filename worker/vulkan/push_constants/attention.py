"""The push constants of the kernels of attention; kernels.py names the kernels."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_uint32

from tplaunch.worker.vulkan.push_constants.fields import (
    CACHES,
    PAGING,
    WEIGHTS,
    Address,
    PairAddress,
    QuadAddress,
)


class ClampPush(Structure):
    _fields_ = [
        ("step", Address),
        ("rows", QuadAddress),
        ("quads", c_uint32),
        ("row_stride", c_uint32),
        ("limit", c_float),
    ]


class HeadSumsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("qkv", QuadAddress),
        ("sums", QuadAddress),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("head_quads", c_uint32),
        ("query_stride", c_uint32),
        ("row_stride", c_uint32),
        ("skips_first_key", c_uint32),
    ]


class HeadNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("qkv", QuadAddress),
        ("query_weight", QuadAddress),
        ("key_weight", QuadAddress),
        ("query_bias", QuadAddress),
        ("key_bias", QuadAddress),
        ("sums", QuadAddress),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("head_quads", c_uint32),
        ("query_stride", c_uint32),
        ("row_stride", c_uint32),
        ("weight_stride", c_uint32),
        ("num_sums", c_uint32),
        ("sums_stride", c_uint32),
        ("is_layer_norm", c_uint32),
        ("has_weight", c_uint32),
        ("has_bias", c_uint32),
        ("query_inverse", c_float),
        ("key_inverse", c_float),
        ("epsilon", c_float),
    ]


class RopeRowsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("rope", Address),
        ("qkv", Address),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("key_length", c_uint32),
        ("query_stride", c_uint32),
        ("qkv_stride", c_uint32),
        ("rope_stride", c_uint32),
        ("rope_offset", c_uint32),
        ("rope_dimension", c_uint32),
        ("rope_start", c_uint32),
        ("interleaved", c_uint32),
    ]


class RopeCachePush(Structure):
    _fields_ = [
        ("step", Address),
        ("rope", Address),
        ("qkv", Address),
        ("query", Address),
        *CACHES,
        *PAGING,
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("key_length", c_uint32),
        ("value_length", c_uint32),
        ("query_stride", c_uint32),
        ("qkv_stride", c_uint32),
        ("rope_stride", c_uint32),
        ("rope_offset", c_uint32),
        ("rope_dimension", c_uint32),
        ("rope_start", c_uint32),
        ("interleaved", c_uint32),
        ("temperature", c_uint32),
    ]


class AttentionPush(Structure):
    _fields_ = [
        ("step", Address),
        ("query", QuadAddress),
        *CACHES,
        ("sums", QuadAddress),
        ("results", Address),
        ("sinks", Address),
        *PAGING,
        ("head_counts", c_uint32),
        ("group_heads", c_uint32),
        ("lengths", c_uint32),
        ("output_stride", c_uint32),
        ("value_stride", c_uint32),
        ("scale", c_float),
        ("window", c_int32),
        ("softcap", c_float),
        ("alibi", c_float),
        ("alibi_heads", c_uint32),
    ]


class AttentionCombinePush(Structure):
    _fields_ = [
        ("step", Address),
        ("sums", QuadAddress),
        ("scales", PairAddress),
        ("output", Address),
        ("sinks", Address),
        ("gates", Address),
        ("positions", c_uint32),
        ("num_heads", c_uint32),
        ("value_quads", c_uint32),
        ("output_stride", c_uint32),
        ("has_sinks", c_uint32),
        ("gate_stride", c_uint32),
        ("gate_row_stride", c_uint32),
    ]


class HeadProductsPush(Structure):
    _fields_ = [
        ("step", Address),
        *WEIGHTS,
        ("input", QuadAddress),
        ("output", Address),
        ("num_heads", c_uint32),
        ("columns", c_uint32),
        ("tiles", c_uint32),
        ("input_stride", c_uint32),
        ("input_head_stride", c_uint32),
        ("output_stride", c_uint32),
        ("output_head_stride", c_uint32),
    ]


class CopyHeadsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", Address),
        ("output", Address),
        ("num_heads", c_uint32),
        ("length", c_uint32),
        ("input_stride", c_uint32),
        ("input_head_stride", c_uint32),
        ("output_stride", c_uint32),
        ("output_head_stride", c_uint32),
    ]
