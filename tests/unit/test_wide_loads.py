"""Decode is bound by memory: weights, inputs, keys and values come 16 bytes a lane and instruction.

Counted in SPIR-V with every loop walked once. Scales, codebooks and words of blocks come 4 bytes at a time;
nothing comes by 8.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from tests.unit.test_alignment import pointers_of
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.shaders import alignment, spirv
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.shaders.spirv import Instruction
from tplaunch.worker.formats import FORMATS

DECODE = [name for name in kernel_names() if name.startswith(("matvec_", "attention_teams"))]
WORDS = {"quants", "highs", "input", "query", "key_cache", "value_cache"}
# The share of the bytes that a matrix-vector product of eight columns loads so. Types that are not named look
# their weights up in codebooks, a word at a time, and have blocks of an odd number of words.
LEAST_SHARES = {
    **{"F32": 0.96, "F16": 0.93, "BF16": 0.93, "Q8_0": 0.8, "Q4_0": 0.83, "Q4_1": 0.83},
    **{"Q5_0": 0.75, "Q5_1": 0.75, "Q2_K": 0.7, "Q3_K": 0.8, "Q4_K": 0.75, "Q5_K": 0.8, "Q6_K": 0.7},
    **{"IQ4_NL": 0.8, "IQ4_XS": 0.7, "MXFP4": 0.8, "NVFP4": 0.8, "TQ2_0": 0.8},
}


@cache
def loads_of(name: str) -> Counter[int]:
    """How many loads promise so many bytes, by these."""
    bodies: dict[int, list[Instruction]] = {}
    entry, body = 0, list[Instruction]()
    for op in spirv.instructions(load_kernel(name)):
        if op.opcode == spirv.OP_ENTRY_POINT:
            entry = op.operands[1]
        elif op.opcode == spirv.OP_FUNCTION:
            body = bodies[op.operands[1]] = []
        body.append(op)

    @cache
    def within(function: int) -> Counter[int]:
        found = Counter[int]()
        for op in bodies[function]:
            promise = alignment.promised(op) if op.opcode == spirv.OP_LOAD else None
            if promise is not None:
                found[promise] += 1
            elif op.opcode == spirv.OP_FUNCTION_CALL:
                found += within(op.operands[2])
        return found

    return within(entry)


@pytest.mark.parametrize("name", DECODE)
def test_words_of_weights_and_inputs_are_16_bytes(name: str) -> None:
    pointers = pointers_of(load_kernel(name))
    assert {size for member, size in pointers.items() if member in WORDS} == {16}
    assert loads_of(name).keys() == {4, 16}


@pytest.mark.parametrize("suffix", ["", "_wide"])
@pytest.mark.parametrize("weight_type", FORMATS)
def test_most_bytes_come_16_at_a_time(weight_type: str, suffix: str) -> None:
    loads = loads_of(f"matvec_{weight_type.lower()}{suffix}")
    share = 16 * loads[16] / sum(size * count for size, count in loads.items())
    assert share >= LEAST_SHARES.get(weight_type, 0.2)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_most_of_the_cache_comes_16_at_a_time(kv_type: str) -> None:
    """The rest of what attention loads are a few words of a step; q8_0 has a scale for each load."""
    loads = loads_of(f"attention_teams_{kv_type}_4")
    assert 16 * loads[16] >= (0.69 if kv_type == "q8_0" else 0.85) * (16 * loads[16] + 4 * loads[4])
