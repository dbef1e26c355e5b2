"""The push constants of the kernels of layers with a recurrent state; as in kernels.py."""

from __future__ import annotations

from ctypes import Structure, c_float, c_uint32

from tplaunch.worker.vulkan.push_constants.fields import Address


class ConvolutionPush(Structure):
    _fields_ = [
        ("step", Address),
        ("mixed", Address),
        ("weight", Address),
        ("bias", Address),
        ("state", Address),
        ("output", Address),
        ("run_starts", c_uint32),
        ("read_slots", c_uint32),
        ("write_slots", c_uint32),
        ("channels", c_uint32),
        ("kernel", c_uint32),
        ("weight_stride", c_uint32),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("has_bias", c_uint32),
        ("gated", c_uint32),
    ]


class UnitNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("vectors", Address),
        ("count", c_uint32),
        ("length", c_uint32),
        ("stride", c_uint32),
        ("epsilon", c_float),
    ]


class RecurrencePush(Structure):
    _fields_ = [
        ("step", Address),
        ("convolved", Address),
        ("times", Address),
        ("factors", Address),
        ("time_bias", Address),
        ("skips", Address),
        ("state", Address),
        ("output", Address),
        ("run_starts", c_uint32),
        ("read_slots", c_uint32),
        ("write_slots", c_uint32),
        ("num_heads", c_uint32),
        ("first_head", c_uint32),
        ("divisor", c_uint32),
        ("modulus", c_uint32),
        ("num_groups", c_uint32),
        ("first_group", c_uint32),
        ("head_length", c_uint32),
        ("state_length", c_uint32),
        ("input_stride", c_uint32),
        ("times_stride", c_uint32),
        ("output_stride", c_uint32),
        ("delta", c_uint32),
    ]


class GatedNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", Address),
        ("gate", Address),
        ("weight", Address),
        ("output", Address),
        ("addends", Address),
        ("num_addends", c_uint32),
        ("slot_stride", c_uint32),
        ("addend_stride", c_uint32),
        ("input_stride", c_uint32),
        ("gate_stride", c_uint32),
        ("output_stride", c_uint32),
        ("num_vectors", c_uint32),
        ("first_vector", c_uint32),
        ("length", c_uint32),
        ("vectors_per_group", c_uint32),
        ("first_group", c_uint32),
        ("weight_stride", c_uint32),
        ("gate_first", c_uint32),
        ("inverse_length", c_float),
        ("epsilon", c_float),
    ]


class SquareSumsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", Address),
        ("gate", Address),
        ("output", Address),
        ("num_heads", c_uint32),
        ("first_head", c_uint32),
        ("head_length", c_uint32),
        ("heads_per_group", c_uint32),
        ("num_groups", c_uint32),
        ("input_stride", c_uint32),
        ("gate_stride", c_uint32),
        ("output_stride", c_uint32),
    ]


RECURRENT_KERNELS: dict[str, type[Structure]] = {
    "convolution": ConvolutionPush,
    "unit_norm": UnitNormPush,
    "recurrence": RecurrencePush,
    "gated_norm": GatedNormPush,
    "square_sums": SquareSumsPush,
}
